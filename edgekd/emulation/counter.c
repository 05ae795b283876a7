/* Counts what a guest executes between two marks: instructions by class, bytes that it loads and stores, pages that it
 * touches, and misses of caches of given sizes. A plugin of QEMU's TCG, of version 1 of its interface
 * (https://www.qemu.org/docs/master/devel/tcg-plugins.html).
 *
 * A mark is the system call getpriority(PRIO_PROCESS, 0x4544xxxx), which changes nothing: xxxx is 1 where counting
 * begins and 2 where it ends. A line of JSON is then written to the descriptor of the option `fd`. The options `l1`,
 * `l2` and `l3` are SIZE:WAYS of a cache in bytes; each is asked for what the one before it has not. Caches stay warm
 * from one mark to the next, there is no prefetcher, and instructions are fetched for nothing. The first mark of all
 * counts nothing: it lets the plugin begin to watch, for until then a guest shall start as fast as it does without.
 *
 * One thread is counted rightly; several would lose counts to each other. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "instructions.h"

/* What is used of QEMU's qemu-plugin.h, which Debian has in no package. */
typedef uint64_t plugin_id;
struct block;
struct instruction;
extern int qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern void qemu_plugin_reset(plugin_id, void (*)(plugin_id));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int operation, void *, uint64_t);
extern void qemu_plugin_register_vcpu_mem_cb(struct instruction *, void (*)(unsigned, uint32_t, uint64_t, void *),
                                             int registers, int accesses, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
                                                 void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                          uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern const void *qemu_plugin_insn_data(const struct instruction *);
extern size_t qemu_plugin_insn_size(const struct instruction *);
extern unsigned qemu_plugin_mem_size_shift(uint32_t);
extern bool qemu_plugin_mem_is_store(uint32_t);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

enum { ADD = 0, NO_REGISTERS = 0, READS_AND_WRITES = 3 };
enum { LINE_SHIFT = 6, PAGE_SHIFT = 12, LEVELS = 3 };
enum { GETPRIORITY_AARCH64 = 141, GETPRIORITY_ARM = 96, MARK = 0x4544, BEGIN = 1, END = 2 };

static int output = -1;
static bool counting;

/* --- instructions */

static uint64_t executed[KINDS], before[KINDS];

static unsigned kind_of(uint32_t word)
{
    unsigned row = 0;
    while ((word & patterns[row].mask) != patterns[row].value)
        row++; /* the last fits everything */
    return patterns[row].kind;
}

/* --- caches */

struct cache {
    uint64_t sets, ways, *lines; /* of each set the most recent first; 0 is an empty place */
    uint64_t accesses, misses;
};
static struct cache caches[LEVELS];
static unsigned levels;

static bool has(struct cache *cache, uint64_t line)
{
    uint64_t *set = cache->lines + (line % cache->sets) * cache->ways, kept = line + 1, way = 0;
    cache->accesses += counting;
    while (way < cache->ways && set[way] != kept)
        way++;
    bool hit = way < cache->ways;
    if (!hit) {
        cache->misses += counting;
        way = cache->ways - 1;
    }
    memmove(set + 1, set, way * sizeof *set);
    set[0] = kept;
    return hit;
}

static bool make_cache(const char *sizes)
{
    unsigned long long bytes, ways;
    if (levels == LEVELS || sscanf(sizes, "%llu:%llu", &bytes, &ways) != 2 || !ways || bytes >> 30)
        return false;
    struct cache *cache = &caches[levels++];
    cache->ways = ways;
    cache->sets = (bytes >> LINE_SHIFT) / ways;
    cache->lines = cache->sets ? calloc(cache->sets * ways, sizeof *cache->lines) : NULL;
    return cache->lines != NULL;
}

/* --- pages: a hash table that is emptied by counting its generation up */

enum { PLACES = 1 << 20, RECENT = 64 };
static struct {
    uint64_t page, generation;
} table[PLACES];
static uint64_t generation, pages, recent[RECENT];

static void touch(uint64_t page)
{
    if (recent[page % RECENT] == page + 1 || pages >= PLACES / 2)
        return;
    recent[page % RECENT] = page + 1;
    uint64_t place = (page * 0x9E3779B97F4A7C15ull >> 40) % PLACES;
    while (table[place].generation == generation && table[place].page != page)
        place = (place + 1) % PLACES;
    if (table[place].generation != generation) {
        table[place].generation = generation;
        table[place].page = page;
        pages++;
    }
}

/* --- what QEMU calls */

static uint64_t accesses, load_bytes, store_bytes;

static void on_access(unsigned cpu, uint32_t info, uint64_t address, void *nothing)
{
    uint64_t size = 1ull << qemu_plugin_mem_size_shift(info), last = (address + size - 1) >> LINE_SHIFT;
    (void)cpu, (void)nothing;
    if (counting) {
        accesses++;
        *(qemu_plugin_mem_is_store(info) ? &store_bytes : &load_bytes) += size;
        touch(address >> PAGE_SHIFT);
        touch((address + size - 1) >> PAGE_SHIFT);
    }
    for (uint64_t line = address >> LINE_SHIFT; line <= last; line++)
        for (unsigned level = 0; level < levels && !has(&caches[level], line); level++)
            ;
}

static void on_block(plugin_id id, struct block *block)
{
    uint64_t found[KINDS] = {0};
    (void)id;
    for (size_t index = 0; index < qemu_plugin_tb_n_insns(block); index++) {
        struct instruction *instruction = qemu_plugin_tb_get_insn(block, index);
        uint32_t word = 0;
        memcpy(&word, qemu_plugin_insn_data(instruction), qemu_plugin_insn_size(instruction) < 4 ? 2 : 4);
        found[kind_of(word)]++;
        qemu_plugin_register_vcpu_mem_cb(instruction, on_access, NO_REGISTERS, READS_AND_WRITES, NULL);
    }
    for (unsigned kind = 0; kind < KINDS; kind++)
        if (found[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &executed[kind], found[kind]);
}

static void begin(void)
{
    memcpy(before, executed, sizeof before);
    memset(recent, 0, sizeof recent);
    generation++;
    pages = accesses = load_bytes = store_bytes = 0;
    for (unsigned level = 0; level < levels; level++)
        caches[level].accesses = caches[level].misses = 0;
    counting = true;
}

static void end(void)
{
    uint64_t total = 0;
    counting = false;
    dprintf(output, "{\"instructions\": {");
    for (unsigned kind = 0; kind < KINDS; kind++) {
        total += executed[kind] - before[kind];
        dprintf(output, "\"%s\": %llu, ", kind_names[kind], (unsigned long long)(executed[kind] - before[kind]));
    }
    dprintf(output, "\"total\": %llu}, \"memory\": {\"accesses\": %llu, \"load_bytes\": %llu, \"store_bytes\": %llu, ",
            (unsigned long long)total, (unsigned long long)accesses, (unsigned long long)load_bytes,
            (unsigned long long)store_bytes);
    dprintf(output, "\"touched_bytes\": %llu}, \"caches\": [", (unsigned long long)(pages << PAGE_SHIFT));
    for (unsigned level = 0; level < levels; level++)
        dprintf(output, "%s{\"level\": %u, \"accesses\": %llu, \"misses\": %llu}", level ? ", " : "", level + 1,
                (unsigned long long)caches[level].accesses, (unsigned long long)caches[level].misses);
    dprintf(output, "]}\n");
}

static void on_system_call(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t);

static void watch(plugin_id id)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_vcpu_syscall_cb(id, on_system_call);
}

static void on_system_call(plugin_id id, unsigned cpu, int64_t number, uint64_t which, uint64_t who, uint64_t a3,
                           uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    static bool watching;
    (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if ((number != GETPRIORITY_AARCH64 && number != GETPRIORITY_ARM) || which != 0 || (uint32_t)who >> 16 != MARK)
        return;
    if (!watching) {
        watching = true;
        qemu_plugin_reset(id, watch); /* what was translated so far is translated again */
    } else if ((who & 0xffff) == BEGIN)
        begin();
    else if ((who & 0xffff) == END && counting)
        end();
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *machine, int count, char **options)
{
    (void)machine;
    for (int index = 0; index < count; index++) {
        const char *option = options[index];
        if (!strncmp(option, "fd=", 3))
            output = atoi(option + 3);
        else if (option[0] != 'l' || option[1] != (char)('1' + levels) || option[2] != '=' || !make_cache(option + 3))
            return 1;
    }
    if (output < 0)
        return 1;
    qemu_plugin_register_vcpu_syscall_cb(id, on_system_call);
    return 0;
}
