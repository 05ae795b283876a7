"""Classes of AArch64 instructions, told apart by their bits.

After the Arm Architecture Reference Manual, DDI 0487, C4.1 "A64 instruction set encoding".
"""

from typing import Final, NamedTuple


class Pattern(NamedTuple):
    """Instructions whose bits are like these, from bit 31 on; dots and what is left out may be anything."""

    kind: str
    bits: str
    of: str
    """What the manual calls them."""


PATTERNS: Final = (  # the first that fits counts, so the special stand before the general
    Pattern("dot", "0..01110 100. .... 1001 01", "SDOT, UDOT"),
    Pattern("dot", "0.001110 100. .... 1001 11", "USDOT"),
    Pattern("dot", "0..01111 10.. .... 1110 .0", "SDOT, UDOT by element"),
    Pattern("dot", "0.001111 .0.. .... 1111 .0", "SUDOT, USDOT by element"),
    Pattern("matrix_multiply", "01.01110 100. .... 1010 01", "SMMLA, UMMLA"),
    Pattern("matrix_multiply", "01001110 100. .... 1010 11", "USMMLA"),
    Pattern("matrix_multiply", "01101110 010. .... 1110 11", "BFMMLA"),
    Pattern("fma", "00011111", "FMADD and its kin"),
    Pattern("fma", "0.001110 ..1. .... 1100 11", "FMLA, FMLS"),
    Pattern("fma_half", "0.001110 .10. .... 0000 11", "FMLA, FMLS of half precision"),
    Pattern("fma", "0.0.1111 1... .... 0.01 .0", "FMLA, FMLS by element"),
    Pattern("fma_half", "0.0.1111 00.. .... 0.01 .0", "FMLA, FMLS by element of half precision"),
    Pattern("fma_half", "0.001110 .01. .... 1110 11", "FMLAL, FMLSL"),
    Pattern("fma_half", "0.101110 .01. .... 1100 11", "FMLAL2, FMLSL2"),
    Pattern("fma_half", "0.001111 10.. .... 0.00 .0", "FMLAL, FMLSL by element"),
    Pattern("fma_half", "0.101111 10.. .... 1.00 .0", "FMLAL2, FMLSL2 by element"),
    Pattern("fma_half", "0.101110 .10. .... 1111 11", "BFDOT, BFMLALB, BFMLALT"),
    Pattern("fma_half", "0.001111 .1.. .... 1111 .0", "BFDOT, BFMLALB, BFMLALT by element"),
    Pattern("widening_multiply", "0..01110 ..1. .... 10.. 00", "SMLAL, UMLAL, SMLSL, UMLSL, SQDMLAL, SQDMLSL"),
    Pattern("widening_multiply", "0..01110 ..1. .... 110. 00", "SMULL, UMULL, SQDMULL"),
    Pattern("widening_multiply", "0..01111 .... .... 0.1. .0", "SMLAL and its kin by element"),
    Pattern("widening_multiply", "0..01111 .... .... 101. .0", "SMULL and its kin by element"),
    Pattern("vector_multiply", "0..01110 ..1. .... 1001 .1", "MUL, MLA, MLS, PMUL"),
    Pattern("vector_multiply", "0..01110 ..1. .... 1011 01", "SQDMULH, SQRDMULH"),
    Pattern("vector_multiply", "0.101110 ..0. .... 1000 .1", "SQRDMLAH, SQRDMLSH"),
    Pattern("vector_multiply", "0.001111 .... .... 1000 .0", "MUL by element"),
    Pattern("vector_multiply", "0.101111 .... .... 0.00 .0", "MLA, MLS by element"),
    Pattern("vector_multiply", "0.001111 .... .... 110. .0", "SQDMULH, SQRDMULH by element"),
    Pattern("vector_multiply", "0.101111 .... .... 11.1 .0", "SQRDMLAH, SQRDMLSH by element"),
    Pattern("vector_float", "0..01110 ..1. .... 11.. .1", "three floats of single or double precision"),
    Pattern("vector_float", "0..01110 .10. .... 00.. .1", "three floats of half precision"),
    Pattern("vector_float", "0..01111 .... .... 1001 .0", "FMUL, FMULX by element"),
    Pattern("vector_float", "0..01110 ..10 0001 1... 10", "rounding and conversion of floats, FRECPE, FRSQRTE, FSQRT"),
    Pattern("vector_float", "0..01110 ..10 0001 011. 10", "FCVTN, FCVTL"),
    Pattern("vector_float", "0..01110 1.10 0000 11.. 10", "comparison with zero, FABS, FNEG"),
    Pattern("vector_float", "0..01110 .111 100. .... 10", "two floats of half precision"),
    Pattern("vector_float", "0..01110 ..11 0000 11.. 10", "FMAXNMV, FMINNMV, FMAXV, FMINV"),
    Pattern("float", ".0011110", "floats that are no vectors"),
    Pattern("vector", "....111", "what else computes in vector registers"),
    Pattern("atomic", "..001000", "exclusive and ordered accesses, compare and swap"),
    Pattern("atomic", "..111000 ..1. .... .... 00", "atomic operations of memory"),
    Pattern("atomic", "..011001", "ordered accesses of unscaled offset"),
    Pattern("prefetch", "11111001 10", "PRFM"),
    Pattern("prefetch", "11111000 10", "PRFM of a register, PRFUM"),
    Pattern("prefetch", "11011000", "PRFM of a literal"),
    Pattern("vector_store", "..10110. .0", "STP, STNP of vectors"),
    Pattern("vector_load", "..10110. .1", "LDP, LDNP of vectors"),
    Pattern("store", "..10100. .0", "STP, STNP"),
    Pattern("load", "..10100. .1", "LDP, LDNP, LDPSW"),
    Pattern("vector_load", "..011100", "LDR of a literal to a vector"),
    Pattern("load", "..011000", "LDR of a literal"),
    Pattern("vector_store", "..11110. .0", "STR, STUR of a vector"),
    Pattern("vector_load", "..11110. .1", "LDR, LDUR of a vector"),
    Pattern("store", "..11100. 00", "STR, STUR"),
    Pattern("load", "..11100.", "LDR, LDUR"),
    Pattern("vector_store", "0.00110. .0", "ST1 to ST4"),
    Pattern("vector_load", "0.00110. .1", "LD1 to LD4"),
    Pattern("system", "11010101 00", "hints, barriers, system registers"),
    Pattern("branch", "...101", "branches, exceptions"),
    Pattern("multiply", "...11011", "MADD, SMULL and what else has three sources"),
    Pattern("divide", ".0011010 110. .... 0000 1.", "UDIV, SDIV"),
    Pattern("integer", "...100", "what computes with immediates"),
    Pattern("integer", "....101", "what else computes in general registers"),
    Pattern("other", "", "what these cores do not have, such as SVE"),
)
KINDS: Final = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))


def kind_of(word: int) -> str:
    """The class of an instruction.

    >>> kind_of(0x4E80_9400), kind_of(0x8B02_0020)  # sdot v0.4s, v0.16b, v0.16b; add x0, x1, x2
    ('dot', 'integer')
    """
    for pattern in PATTERNS:
        mask, value = _mask_and_value(pattern.bits)
        if word & mask == value:
            return pattern.kind
    raise AssertionError("the last pattern fits everything")


def c_header(architecture: str) -> str:
    """The same for the plugin, as arrays of C; 32-bit Arm has one class."""
    patterns = PATTERNS if architecture == "aarch64" else PATTERNS[-1:]  # its two encodings need more than an address
    kinds = tuple(dict.fromkeys(pattern.kind for pattern in patterns))
    rows = []
    for pattern in patterns:
        mask, value = _mask_and_value(pattern.bits)
        rows.append(f"    {{0x{mask:08x}u, 0x{value:08x}u, {kinds.index(pattern.kind)}}}, /* {pattern.of} */")
    names = "".join(f'    "{kind}",\n' for kind in kinds)
    return (
        f"enum {{ KINDS = {len(kinds)}, PATTERNS = {len(patterns)} }};\n"
        f"static const char *const kind_names[KINDS] = {{\n{names}}};\n"
        "static const struct { uint32_t mask, value; unsigned kind; } patterns[PATTERNS] = {\n"
        + "\n".join(rows)
        + "\n};\n"
    )


def _mask_and_value(bits: str) -> tuple[int, int]:
    """The bits that are fixed, and what they are."""
    row = bits.replace(" ", "").ljust(32, ".")
    return int("".join("01"[bit != "."] for bit in row), 2), int(row.replace(".", "0"), 2)
