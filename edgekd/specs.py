"""The nouns: frozen, comparable values. Units stand in the names; what a field may hold stands in its type."""

import math
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Provenance = Literal["measured", "emulated", "estimated", "host"]
"""Where a number comes from. Numbers of different provenance are never compared.

measured: on the device itself. emulated: the artifact's own machine code, run under emulation.
estimated: by a cost model, with an interval. host: on the machine that runs edgekd.
"""

Required = Literal["measured", "emulated"]
"""The least provenance that a verdict of latency or memory may rest on."""

Prefer = Literal[
    "smallest above the accuracy floor", "most capable within the budget", "best by probes within the budget"
]
Mode = Literal["gate", "quick", "rapid"]

Ending = Literal["", "boot", "killed", "refused", "crashed", "time"]
"""How an artifact ended that did not fit into RAM; "" where it did.

boot: Linux does not start in so little. killed: Linux killed it for lack of memory. refused: the engine raised an
error. crashed: it ended by a signal, or with an exit code. time: it got no further for minutes, and was ended.
"""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Count = Annotated[int, Meta(ge=1, le=2**53)]
Size = Annotated[int, Meta(ge=0, le=2**53)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1e18)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e18)]
Limit = Annotated[float, Meta(gt=0.0)]
"""May be infinite: no limit."""


class Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every noun. Fields at their default are left out of files, so a new one changes no old key."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if _has_nan(value):
                raise ValueError(f"{name} is not a number")


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, dict):
        return any(map(_has_nan, value.values()))
    return isinstance(value, tuple | list) and any(map(_has_nan, value))


# --- small ones


class File(Spec, frozen=True, kw_only=True):
    """A file of a run, or a model that is several: see `files.members`."""

    path: Text
    """Relative to the run folder, with forward slashes."""
    size_bytes: Size
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class TensorSpec(Spec, frozen=True, kw_only=True):
    """One input or output of a model."""

    name: str
    shape: tuple[int, ...]
    """With the batch first; -1 where any size goes."""
    dtype: str = "float32"
    layout: Literal["", "NCHW", "NHWC"] = ""
    """Order of the axes where there are image axes."""
    scale: float = 0.0
    """Of an integer that stands for a float, scale * (integer - zero_point), where a file was asked; 0 for none."""
    zero_point: int = 0


class Operator(Spec, frozen=True, kw_only=True):
    """One operation of an artifact, in the format's own terms."""

    kind: str
    """"CONV_2D", "Conv", "Convolution", "conv"."""
    name: str
    """Unique within the artifact: of its first output where the format names no operators."""
    layer: str = ""
    """The torch module that it came from: "blocks.3.conv"; "" where the file does not say."""
    version: int = 1
    """Of the operator where the format counts those (TFLite), else of the operator set; in Core ML the iOS that brought
    the set."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    dtype: str = ""
    """Of the first output: "float32", "int8" ..."""
    by_channel: bool = False
    """It reads a constant that has a scale for each channel (TFLite)."""
    weights: str = ""
    """Type of a constant that it reads and that has a scale: "int8" (TFLite)."""


class Graph(Spec, frozen=True, kw_only=True):
    """What an artifact is made of, as its file says."""

    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[Operator, ...]
    """In an order in which they can be executed; constants are left out."""
    properties: dict[str, str]
    """Classes, preprocessing, licence and the like; keys of ours begin with "edgekd."."""
    doubt: str = ""
    """Why the file is not as it was written, where it tells how that was."""


class Quantization(Spec, frozen=True, kw_only=True):
    """How integers are chosen for a model; the default is what a first export does."""

    ranges: Literal["full", "percentile", "mse", "entropy"] = "full"
    """Of activations: everything that calibration saw, or its tails cut off by a rule."""
    bias_correction: bool = False
    """Take the mean error that rounded weights make out of the biases (Nagel et al. 2019, arXiv:1906.04721)."""
    equalization: bool = False
    """Even the ranges of channels out before anything is rounded: see edgekd/corrections.py."""
    in_float: tuple[str, ...] = ()
    """Torch modules that stay in float."""


class Choice(Spec, frozen=True, kw_only=True):
    """A plugin by name, and its options; `name` may also be a user's `module:function` or `file.py:function`."""

    name: Text
    options: dict[str, Any] = {}


class Preprocessing(Spec, frozen=True, kw_only=True):
    """How a raw pixel in 0..255 becomes a model's input: resized to `size`, then (pixel - mean) / std per channel."""

    size: tuple[Count, Count]
    """Height and width in pixels."""
    mean: tuple[float, ...]
    std: tuple[Positive, ...]


class Interval(Spec, frozen=True, kw_only=True):
    """An estimate with the bounds that hold it in nine of ten cases."""

    value: NonNegative
    low: NonNegative
    high: NonNegative


# --- what the user writes


class Cluster(Spec, frozen=True, kw_only=True):
    """Equal cores of a processor."""

    core: Name
    """The core's name as Arm or Intel write it, in lower case: "cortex-a72"."""
    count: Count
    clock_mhz: Positive
    """The highest clock that the stock firmware runs."""
    l1d_bytes: Size = 0
    l2_bytes: Size = 0
    """Of one core, or shared by the cluster where `l2_shared`."""
    l2_shared: bool = False


class Device(Spec, frozen=True, kw_only=True):
    """Facts of a piece of hardware."""

    soc: Text
    isa: Text
    """Architecture and the extensions that matter to kernels: "armv8.2-a+dotprod+fp16"."""
    clusters: Annotated[tuple[Cluster, ...], Meta(min_length=1)]
    """Fastest first."""
    ram_bytes: Count
    memory_bandwidth_bytes_s: Positive
    """Theoretical peak of the memory bus."""
    sources: dict[str, Text]
    """Where each fact is written: field name -> document or page."""
    flash_bytes: Size = 0
    """Of a microcontroller, which reads weights from flash where they lie; 0 where models are loaded into RAM."""
    l3_bytes: Size = 0
    accelerator: str = ""


class Budget(Spec, frozen=True, kw_only=True):
    """What a model may cost on a device; a missing limit is infinite."""

    latency_ms: Limit = math.inf
    """90th percentile of one inference at batch 1."""
    peak_memory_bytes: Limit = math.inf
    """Weights and planned arena of the model, without the runtime's own code; of a microcontroller the arena alone."""
    file_bytes: Limit = math.inf
    energy_mj: Limit = math.inf
    accuracy_floor: Share = 0.0
    """Least value of the task's metric for the artifact. A recipe's own counts instead, where it has one: 0.75 of what
    comes next in a text is another thing than 0.75 of ten classes."""


class Target(Spec, frozen=True, kw_only=True):
    """A device and what a model may cost on it (one file in targets/)."""

    schema: Literal[1]
    name: Name
    title: Text
    device: Device
    budget: Budget
    exports: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """`format-precision`, best first: "tflite-int8"."""
    engines: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """Files of edgekd/engines that the device has, best first."""
    threads: Count = 1
    """Threads that an application on this device gives to a model."""
    emulator: str = ""
    """The core that QEMU imitates: "cortex-a72"."""
    cost_profile: Name = "profiles"
    """A file of edgekd/cost, or a profile that `edgekd calibrate` made."""
    runtimes: dict[Name, Text] = {}
    """Version of each runtime that the device has: engine name -> version."""
    fallbacks: dict[Name, Name] = {}
    """Export -> export that stands in for it where a runtime of the device cannot execute it, or would silently answer
    wrongly; nothing is replaced that is not named here."""
    npu: Choice | None = None
    """A file of edgekd/compilers that compiles exports for the device's neural processor, and which one that is."""


class Views(Spec, frozen=True, kw_only=True):
    """Seeded affine views of the training images; view k of image i is always the same picture."""

    count: Count = 1
    """How many different views there are; epoch e trains on view e modulo count."""
    rotate_degrees: Annotated[float, Meta(ge=0, le=180)] = 0.0
    shift: Share = 0.0
    """Share of the width and height."""
    scale: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    shear: Annotated[float, Meta(ge=0, le=1)] = 0.0
    elastic: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Largest displacement of a smooth random field on a 4x4 grid, as a share of half the width."""
    flip: bool = False
    """Mirror left and right, every other image at random."""
    brightness: Share = 0.0
    """Largest change of gain and of offset."""

    @property
    def moves(self) -> bool:
        """Whether what is in an image is elsewhere in its views."""
        return bool(self.rotate_degrees or self.shift or self.scale or self.shear or self.elastic or self.flip)


class Training(Spec, frozen=True, kw_only=True):
    """Stochastic gradient descent with Nesterov momentum, linear warm-up and cosine decay, or AdamW."""

    epochs: Size
    """0 takes the model as it is."""
    batch: Count = 64
    learning_rate: Positive = 0.1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    weight_decay: NonNegative = 5e-4
    warmup: Share = 0.15
    """Share of the steps."""
    clip: Positive | None = None
    """Norm that the gradient of a step is shortened to where it is longer (Pascanu et al. 2013, arXiv:1211.5063)."""
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    own_generations: Share = 0.0
    """Share of the steps in which a student that writes goes on with the beginnings of the texts itself, and learns
    what its teachers say of that (Agarwal et al. 2024, "GKD", arXiv:2306.13649, lambda): see edgekd/generations.py."""
    autocast: bool = False
    """Multiply matrices in bfloat16 while training: on processors that can (avx512_bf16, bf16 of Armv8.6) encoders of
    text take less than half the time, on others more."""


class LayerMap(Spec, frozen=True, kw_only=True):
    """Layers of the teacher, each with a layer of the student.

    A layer is a path as `named_modules` has it, "blocks.3.conv"; "blocks.3:1" is the second of what it returns. A `*`
    stands for any number, the same in all its places: "encoder.layer.*.attention".
    """

    teacher: Text
    student: Text
    map: Literal["uniform", "spaced", "first", "last", "same"] = "uniform"
    """Which of the teacher's layers the student's get, where there are more: evenly spread and ending with the last,
    evenly spread from the first to the last, the first ones, the last ones; "same" wants as many."""


class LossChoice(Spec, frozen=True, kw_only=True):
    """A file of edgekd/losses, its share in the total and its options."""

    name: Text
    weight: NonNegative = 1.0
    ends: NonNegative | None = None
    """The weight at the end of the training, where it changes: in a straight line from `weight`."""
    head: str = ""
    """The output that it looks at; "" is each of those that it can look at."""
    layers: tuple[LayerMap, ...] = ()
    """What it compares, where it is a loss on layers."""
    options: dict[str, Any] = {}


class Stage(Spec, frozen=True, kw_only=True):
    """A training of the student before the main one; each goes on from the one before it."""

    training: Training
    losses: Annotated[tuple[LossChoice, ...], Meta(min_length=1)]


class Head(Spec, frozen=True, kw_only=True):
    """One of several outputs of a net."""

    task: Text
    weight: NonNegative = 1.0
    """Of its losses in the total."""


class Initialise(Spec, frozen=True, kw_only=True):
    """What a student starts from instead of random numbers."""

    layers: tuple[LayerMap, ...] = ()
    """Parts of the teacher whose weights are copied to the student's, name by name."""
    weights: str = ""
    """A safetensors file; what has the student's names and shapes is copied, and the rest starts at random."""


class TeacherChoice(Spec, frozen=True, kw_only=True):
    """Where the teacher comes from, and how it is adapted to the data."""

    name: Text
    training: Training
    options: dict[str, Any] = {}
    views: Views | None = None
    """Views that the teacher is trained on, where they differ from the student's."""
    heads: tuple[Name, ...] = ()
    """What it teaches; () is everything."""


class PseudoLabels(Spec, frozen=True, kw_only=True):
    """A student learns from what the teacher writes about the training examples instead of their labels (Kim and Rush
    2016, arXiv:1606.07947), where that is not too far from those (Gandhi et al. 2023, arXiv:2311.00430)."""

    least: Share
    """Least headline metric of what the teacher writes about an example, held against its label."""


class StudentChoice(Spec, frozen=True, kw_only=True):
    """The family of students, what may vary in it, and how the chosen one is trained."""

    name: Text
    training: Training
    options: dict[str, Any] = {}
    """Options that are the same for every candidate."""
    space: dict[str, Annotated[list[Any], Meta(min_length=1)]] | Literal["whole"] = {}
    """Option -> values to choose from; the candidates are all combinations. "whole" takes the family's own space,
    without the options that are fixed."""
    initialise: Initialise = Initialise()


class Recipe(Spec, frozen=True, kw_only=True):
    """How to make a student (one file in recipes/)."""

    schema: Literal[1]
    name: Name
    title: Text
    dataset: Choice
    teacher: TeacherChoice
    student: StudentChoice
    losses: Annotated[tuple[LossChoice, ...], Meta(min_length=1)]
    prefer: Prefer
    task: str = ""
    """Of a net with one output, which is then called "logits"."""
    heads: dict[Name, Head] = {}
    """Output -> its task, of a net with several; in the order in which it answers them."""
    weighting: Literal["fixed", "uncertainty"] = "fixed"
    """How the heads' losses add up: by their weights, or by what is learned of each one's noise as well (Kendall, Gal
    and Cipolla 2018, arXiv:1705.07115)."""
    teachers: dict[Name, TeacherChoice] = {}
    """Further ones; where several teach a head, the mean of their outputs does."""
    stages: tuple[Stage, ...] = ()
    pseudo_labels: PseudoLabels | None = None
    """Where nets write texts; the twin learns from the labels as they are."""
    accuracy_floor: Share = 0.0
    budget: dict[Literal["latency_ms", "peak_memory_bytes", "file_bytes", "energy_mj"], Limit] = {}
    """Limits of this job in place of the target's; those that are left out stay."""
    views: Views = Views()
    probe_epochs: Count = 5
    """Length of the short distillations that "smallest above the accuracy floor" compares candidates by."""
    measure: Mode = "rapid"
    top_k: Size = 0
    """How many of a teacher's largest logits are kept of an output with more than 1000 classes, the others as one sum;
    0 keeps all."""
    seed: Seed = 0
    student_seed: Seed | None = None
    """Of the student's start and of the order of its examples, where it is another: teacher, views, what the teacher
    says and the plan stay those of `seed`."""
    instead: dict[Name, Name] = {}
    """Export of a target -> the one that is made in its place, where this kind of net loses too much in it."""
    scales: dict[Name, dict[str, Any]] = {}
    """Other sizes of the same job: name -> what differs, by path: {"student.training.epochs" = 2}."""
    minutes: NonNegative = 0.0
    """What a run takes on two cores, as measured by us."""
    memory_bytes: Size = 0
    """Peak resident memory of the largest process of a run, as measured by us."""


# --- what the steps return


class Output(Spec, frozen=True, kw_only=True):
    """One thing that a net answers."""

    name: str
    task: Text
    shape: tuple[int, ...]
    """Of one example, without the batch; the classes are the first axis where there are some."""
    classes: tuple[str, ...] = ()
    weight: NonNegative = 1.0
    metric: str
    """The task's headline metric."""

    @property
    def is_choice(self) -> bool:
        """Whether each place of an answer is a choice of one class: they are the first axis, and nothing else is."""
        return bool(self.classes) and self.shape[:1] == (len(self.classes),)


class Input(Spec, frozen=True, kw_only=True):
    """What a net is shown beside its first input."""

    name: str
    shape: tuple[int, ...]
    """Of one example."""
    kind: Literal["numbers", "tokens"]
    prompt: Size = 0
    """Tokens that are given where a net writes the others itself, each the likeliest that it answers one place before;
    0 where all are given."""


class Subject(Spec, frozen=True, kw_only=True):
    """What a net is made for: what it is shown, and what it shall answer."""

    shape: tuple[int, ...]
    """Of one example: (channels, height, width) for images, else as the data set has it."""
    kind: Literal["images", "numbers", "tokens"]
    """Raw pixels in 0..255, which views and preprocessing apply to; floats, taken as they are; numbers of words, padded
    with 0 at the end."""
    outputs: Annotated[tuple[Output, ...], Meta(min_length=1)]
    vocabulary: tuple[str, ...] = ()
    """Of tokens: the words or pieces of words that the numbers stand for; the first is padding."""
    end: Size = 0
    """The token that ends a text which a net goes on with; 0 where texts end with their padding."""
    beside: tuple[Input, ...] = ()
    """Further inputs, in the order in which a net takes them behind the first."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the first output."""
        return self.outputs[0].classes

    @property
    def metric(self) -> str:
        """The headline metric: of several outputs the mean of theirs."""
        return self.outputs[0].metric if len(self.outputs) == 1 else "mean"

    @property
    def written(self) -> int | None:
        """Which of the further inputs is a text that a net writes itself; None where none is."""
        return next((index for index, one in enumerate(self.beside) if one.prompt), None)

    @property
    def text(self) -> int:
        """Which of all inputs is the text, where a net writes one."""
        return 0 if self.written is None else 1 + self.written

    @property
    def images(self) -> bool:
        """Whether views and preprocessing apply."""
        return self.kind == "images"


class Data(Spec, frozen=True, kw_only=True):
    """A data set, read once and kept as arrays."""

    name: str
    licence: str
    subject: Subject
    train_inputs: File
    train_labels: tuple[File, ...]
    """For each output an array of shape (examples, ...)."""
    test_inputs: File
    test_labels: tuple[File, ...]
    train_beside: tuple[File, ...] = ()
    """For each further input an array of shape (examples, ...)."""
    test_beside: tuple[File, ...] = ()

    def inputs(self, split: Literal["train", "test"]) -> tuple[File, ...]:
        """Of all inputs of a split, the first in front."""
        return (self.train_inputs, *self.train_beside) if split == "train" else (self.test_inputs, *self.test_beside)


class Teacher(Spec, frozen=True, kw_only=True):
    """A trained teacher."""

    weights: File
    choice: Choice
    preprocessing: Preprocessing | None
    parameters: Size
    file_bytes: Size
    """Of the float32 weights."""
    macs: Size
    metrics: dict[str, float]
    """On the test split, float32, in PyTorch."""


class Said(Spec, frozen=True, kw_only=True):
    """What a teacher says about one view of the training split: float16 arrays of shape (examples, ...), in .npy.

    Of many classes it may be the largest logits alone: see edgekd/topk.py.
    """

    outputs: tuple[File, ...]
    """For each output that it teaches."""
    layers: tuple[File, ...] = ()


class Told(Spec, frozen=True, kw_only=True):
    """What one teacher says about each view."""

    teacher: Teacher
    outputs: tuple[int, ...]
    """Which of the subject's it teaches."""
    views: tuple[Said, ...]
    layers: tuple[str, ...] = ()
    """Paths of the layers that students look at."""
    kept: bool = True
    """False where layers take more room than knowledge may: they are asked for again in every epoch."""


class Knowledge(Spec, frozen=True, kw_only=True):
    """What the teachers of a run say; the first one's layers can be looked at."""

    told: tuple[Told, ...]


class Cost(Spec, frozen=True, kw_only=True):
    """What a candidate is predicted to cost on a target; provenance `estimated`."""

    latency_ms: Interval
    peak_memory_bytes: Size
    file_bytes: Size
    macs: Size
    parameters: Size
    tier: str
    """How far the latency can be trusted: "calibrated", "anchored on N measurements" or "spec sheet only"."""


class Candidate(Spec, frozen=True, kw_only=True):
    """A student that could be made."""

    options: dict[str, Any]
    cost: Cost
    """Of the export that the plan is for."""
    by_export: dict[str, Cost] = {}
    """Of every export of the target."""
    probe_accuracy: float | None = None
    """Of a short distillation, on examples held out of the training split; `host`."""


class Verdict(Spec, frozen=True, kw_only=True):
    """A limit held against what was found."""

    limit: str
    allowed: float
    found: float
    provenance: Provenance
    ok: bool
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def upper(self) -> float:
        """What counts of it: the upper end of an interval, where there is one."""
        return self.high or self.found

    @property
    def share(self) -> float:
        """Of what is allowed, that counts."""
        return self.upper / self.allowed


class Finalist(Spec, frozen=True, kw_only=True):
    """A candidate that was built and converted, and measured where a device was at hand, before any was trained."""

    options: dict[str, Any]
    predicted: Cost
    """By the cost model alone."""
    verdicts: tuple[Verdict, ...] = ()
    """What was found of latency, memory and file; () where it could not be made."""
    failed: str = ""
    """Why it could not be made or executed."""
    trained: bool = False
    """It is the student of an earlier round, and not a net with random weights."""

    @property
    def fits(self) -> bool:
        """Whether it holds every limit."""
        return not self.failed and all(one.upper <= one.allowed for one in self.verdicts)


class Plan(Spec, frozen=True, kw_only=True):
    """The student to make for a target, and what it was chosen among."""

    target: str
    export: str
    """What the costs are for."""
    student: Choice
    predicted: Cost
    by_export: dict[str, Cost] = {}
    """What each export of the target is predicted to cost."""
    considered: Count
    fitting: Count
    """How many of the considered are within the budget."""
    front: tuple[Candidate, ...]
    """Cheapest first: each costs more than the one before it and has more capacity."""
    finalists: tuple[Finalist, ...] = ()
    """In the order in which they were tried."""
    reason: str


class Student(Spec, frozen=True, kw_only=True):
    """A trained student, and its twin that had the same start, steps and data but no teacher."""

    weights: File
    twin_weights: File
    choice: Choice
    preprocessing: Preprocessing | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Of what a device executes: of a net that writes token after token, of one step."""
    subject: Subject
    parameters: Size
    macs: Size
    metrics: dict[str, float]
    twin_metrics: dict[str, float]


class Context(Spec, frozen=True, kw_only=True):
    """The model that makes what stays the same in a text: executed once, before the steps that write it."""

    model: File
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    samples: File
    """As of the Artifact."""


class Artifact(Spec, frozen=True, kw_only=True):
    """A student in a device's own format."""

    export: str
    format: str
    precision: str
    model: File
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    samples: File
    """Preprocessed test examples in the artifact's own layout: a .npz with an array "0", "1", ... of shape (examples,
    *shape) for each input."""
    tools: dict[str, str]
    """Package -> version that made it."""
    quantization: Quantization = Quantization()
    """How its integers were chosen, where it has any."""
    steps: Size = 0
    """Tokens of a text, of an artifact that is one step of a net that writes: see edgekd/decoding.py."""
    texts: File | None = None
    """Test texts for such an artifact to go on with: a .npz of tokens (texts, steps) and how many of them are given."""
    end: Size = 0
    """The token that ends what it writes."""
    context: Context | None = None
    """Of such an artifact, where its steps are given something that is made of other inputs."""

    @property
    def file_bytes(self) -> int:
        """Of everything that the device gets."""
        return self.model.size_bytes + (self.context.model.size_bytes if self.context else 0)


class Agreement(Spec, frozen=True, kw_only=True):
    """How closely an artifact, executed by an engine, follows the student in float32; over the test split."""

    artifact: str
    engine: str
    provenance: Provenance
    max_abs: float
    """Largest difference of any output value."""
    sqnr_db: float
    """Signal to quantization noise ratio, 10 log10(sum x^2 / sum (x - y)^2), at most 200."""
    top1_agreement: float | None
    """Share of answers with the same class on top, of the output where it is least; None where none has classes."""
    metrics: dict[str, float]
    metric_drop: float
    """Student's metric minus the artifact's."""
    metric_drop_low: float
    """95% bootstrap interval of the drop, over the test examples."""
    metric_drop_high: float
    ok: bool
    reason: str = ""
    outputs: tuple[File, ...] = ()
    """What the artifact answered on the test split: for each output a .npy of shape (examples, ...)."""


class Trial(Spec, frozen=True, kw_only=True):
    """A way to quantize, done for real and examined on training examples that calibration does not use; `host`."""

    quantization: Quantization
    metric: float = 0.0
    metric_drop: float = 0.0
    """Metric of the student in float32 on the same examples, minus this one's."""
    sqnr_db: float = 0.0
    file_bytes: Size = 0
    failed: str = ""
    """Why there is no artifact, where there is none."""


class LayerCost(Spec, frozen=True, kw_only=True):
    """What it costs that layers are in integers: measured on an artifact that has them, and nothing else, in float.

    A rounded weight belongs to one layer, a rounded tensor to the one that writes it and to those that read it: it
    stays in float only where all of them do.
    """

    layers: tuple[Text, ...]
    metric_gain: float
    """Metric of the artifact with these layers in float, minus that of the one without; as in Trial."""
    sqnr_gain_db: float
    added_bytes: int
    """Of the file."""


class Tried(Spec, frozen=True, kw_only=True):
    """What a rung of the ladder came to."""

    artifact: Artifact | None = None
    """Of the best trial; None where all failed."""
    trials: tuple[Trial, ...] = ()
    blame: tuple[LayerCost, ...] = ()
    """Worst first."""
    predicted: Cost | None = None
    """Where it differs from the plan's: some layers are in float."""


class Rung(Spec, frozen=True, kw_only=True):
    """One remedy for what integers cost, as it was tried on an export."""

    name: Text
    tried: Tried
    agreement: Agreement | None = None
    """Over the test split; None where there is no artifact."""
    holds_accuracy: bool = False
    holds_budget: bool = False
    """The file's size as it is, latency and memory as they are estimated; and a runtime of the target executes it."""
    unfit: tuple[str, ...] = ()
    """Why none does, where none does."""


class Climb(Spec, frozen=True, kw_only=True):
    """The ladder of an export that is not accurate enough as it was made first."""

    export: str
    floor: float
    """Least metric on the test split."""
    most_drop: float
    """Largest difference to the metric of the student in float32."""
    rungs: tuple[Rung, ...]
    """In the order in which they were tried, the first try in front."""
    chosen: str
    """The first that holds accuracy and budget; else the most accurate of those within the budget."""

    @property
    def best(self) -> Rung:
        """The chosen one; it has an artifact."""
        return next(rung for rung in self.rungs if rung.name == self.chosen)

    @property
    def held(self) -> bool:
        """Whether the chosen one holds accuracy and budget."""
        return self.best.holds_accuracy and self.best.holds_budget


class Latency(Spec, frozen=True, kw_only=True):
    """Statistics of a run's samples, in milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    min: float
    max: float
    sd: float
    p90_low: float
    """95% bootstrap interval of p90."""
    p90_high: float
    stability: float
    """0..100, as ExecuTorch scores it; below 80 a run is not valid."""


class Memory(Spec, frozen=True, kw_only=True):
    """Memory of one fresh process, in bytes."""

    peak_rss_bytes: int
    """Peak resident set minus what it was before the model was loaded, runtime already imported.

    Of an engine that is a program (`tensorrt`, `benchmark_model`) it is all that the program takes, its libraries and
    GPU memory included.
    """
    file_bytes: int
    arena_bytes: int | None = None
    """Planned by the runtime, where it tells."""


class Machine(Spec, frozen=True, kw_only=True):
    """The machine that a measurement ran on."""

    system: str
    cpu: str
    cores: int
    memory_bytes: int
    python: str
    governor: str = ""
    clock_mhz: float = 0.0


class Writing(Spec, frozen=True, kw_only=True):
    """How fast an artifact that is one step of a net writes whole texts, each the most likely token after token."""

    texts: Count
    tokens: Size
    """Written, what was given left out."""
    tokens_s: NonNegative
    """Median over the texts, from the first token written to the last: step, choice, and what hands the state on."""
    first_token_ms: NonNegative
    """Median over the texts, from the first token given to the first written."""
    text_ms: tuple[float, ...]
    """Of each text, from the first token given to the last written."""
    question: tuple[int, ...]
    """Tokens of the first text that were given."""
    answer: tuple[int, ...]
    """And what it went on with."""


class Conditions(Spec, frozen=True, kw_only=True):
    """What a device said of itself before or after a run."""

    temperatures_c: tuple[float, ...] = ()
    """Of all zones that it has."""
    clock_mhz: float = 0.0
    """Of its first core; 0 where it does not say."""
    throttled: int = 0
    """A Raspberry Pi's flags, as `vcgencmd get_throttled` shows them, or an Android phone's thermal status, 0 to 6.
    0 where there is neither."""
    stolen_ticks: int = 0
    """Hundredths of a second that a hypervisor took since the start."""
    at_s: float = 0.0
    """Of the device's own clock."""


class Planned(Spec, frozen=True, kw_only=True):
    """An operation as a runtime says that it will execute it (Core ML's MLComputePlan)."""

    kind: str
    outputs: tuple[str, ...]
    device: str
    """"CPU", "GPU", "NeuralEngine"; "" where the runtime does not say."""
    cost: NonNegative
    """Share of the whole model's work."""


class Measurement(Spec, frozen=True, kw_only=True):
    """Latency and memory of an artifact, executed by an engine on a device."""

    artifact: str
    engine: str
    engine_version: str
    device: str
    provenance: Provenance
    mode: Mode
    threads: int
    load_ms: float
    first_ms: float
    latency_ms: Latency
    burst_ms: float | None = None
    """Median of the first tenth of the run's time, when the device was still cool."""
    sustained_ms: float | None = None
    """Median of the last third of the run."""
    noise: float | None = None
    """How much the medians of fresh processes differ, as a share of the smallest; null where there was one process."""
    samples_ms: tuple[float, ...]
    memory: Memory
    machine: Machine
    planned: tuple[Planned, ...] = ()
    """Of runtimes that tell where they execute what."""
    before: Conditions = Conditions()
    after: Conditions = Conditions()
    outputs_sha256: str
    writing: Writing | None = None
    """Of artifacts that are a step of a net that writes, whose latency is that of one step."""
    once_ms: float | None = None
    """90th percentile of what is executed once before the steps of a text, where something is."""
    valid: bool
    reasons: tuple[str, ...] = ()
    """Why a run is not valid, or what to know about it."""


class Summary(Spec, frozen=True, kw_only=True):
    """Latency and memory of an artifact as a program tells them that keeps its samples to itself (benchmark_model).

    It chose the inputs, at random. A statistic that it does not print is None.
    """

    artifact: str
    engine: str
    engine_version: str
    """Beginning of the program's SHA-256, for it does not tell its version."""
    device: str
    provenance: Provenance
    mode: Mode
    threads: int
    load_ms: float
    first_ms: float
    inferences: Count
    mean_ms: float
    sd_ms: float
    min_ms: float
    max_ms: float
    p5_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    memory: Memory
    machine: Machine
    before: Conditions = Conditions()
    after: Conditions = Conditions()
    valid: bool
    reasons: tuple[str, ...] = ()


class Arena(Spec, frozen=True, kw_only=True):
    """What an artifact takes of a microcontroller's memory, planned on this machine by the runtime that it has."""

    artifact: str
    engine: str
    engine_version: str
    provenance: Provenance
    file_bytes: Size
    """In flash."""
    arena_bytes: Size
    """In SRAM: all that the runtime took of the memory that it was given."""
    persistent_bytes: Size
    """Of those, what no tensor of the graph is in: the runtime's records, and buffers that its kernels keep."""


class Compiled(Spec, frozen=True, kw_only=True):
    """An artifact compiled for a neural processor, and what the compiler's own model says that an inference costs."""

    artifact: str
    compiler: str
    compiler_version: str
    processor: Text
    """And the memory system that it was compiled for: "ethos-u55-128 at 500 MHz, Ethos_U55_High_End_Embedded"."""
    provenance: Provenance
    model: File
    """What is shipped in the artifact's place."""
    npu_operators: Size
    cpu_operators: tuple[str, ...] = ()
    """Left to the processor beside it, "MEAN of model": their time is in none of these numbers."""
    macs: Size
    cycles: Size
    latency_ms: NonNegative
    """Of what the neural processor executes."""
    sram_bytes: Size
    """Tensors and scratch memory."""
    flash_bytes: Size
    """Weights and commands that the neural processor reads."""

    @property
    def source(self) -> str:
        """Who says so."""
        return f"{self.compiler} {self.compiler_version}, {self.processor}"


class CSource(Spec, frozen=True, kw_only=True):
    """A model file as C, for firmware."""

    artifact: str
    header: File
    source: File
    arena_bytes: Size
    """That the header reserves: what was found, and a margin."""


class Firmware(Spec, frozen=True, kw_only=True):
    """What the firmware of a microcontroller needs of an artifact."""

    artifact: str
    arena: Arena | None = None
    compiled: Compiled | None = None
    c: CSource | None = None
    lacking: tuple[str, ...] = ()
    """What there is not, and why."""


class Counted(Spec, frozen=True, kw_only=True):
    """What one inference of an artifact executes, counted where times would tell nothing; means of several."""

    artifact: str
    engine: str
    engine_version: str
    device: str
    provenance: Provenance
    inferences: Size
    instructions: dict[str, float]
    """By class, and in `total`; empty where the emulator does not count."""
    spread: NonNegative = 0.0
    """Largest less smallest total, as a share of the mean."""
    cache_misses: dict[str, float] = {}
    """By cache: "L1" ..."""
    touched_bytes: float = 0.0
    load_bytes: float = 0.0
    store_bytes: float = 0.0
    latency_ms: Interval | None = None
    """Of one inference on the core at its clock, by its cycle model; null where none is fitted for it."""
    latency_model: str = ""
    """What the model was fitted on, and its error."""
    threads: Count = 1
    """That the latency is for; instructions are counted with one."""
    memory: Memory
    host_sqnr_db: float | None = None
    """Its outputs against those on this machine; 200 where they are equal, null where the engine is not here."""
    host_max_abs: float | None = None
    outputs_sha256: str

    @property
    def against_host(self) -> str:
        """How its outputs differ from those on this machine, for people."""
        if self.host_sqnr_db is None:
            return "not executed here"
        if self.host_max_abs == 0:
            return "equal to the bit"
        return f"{self.host_sqnr_db:.1f} dB, at most {self.host_max_abs:.3g}"


class Comparison(Spec, frozen=True, kw_only=True):
    """What had been estimated for an artifact's file, beside what was found of it."""

    artifact: str
    engine: str
    device: str
    threads: Count
    provenance: Provenance
    """Of what was found: measured or emulated."""
    estimated_ms: Positive
    low_ms: NonNegative
    """Nine of ten measurements are between this and `high_ms`."""
    high_ms: NonNegative
    tier: str
    """How far the estimate can be trusted."""
    found_ms: NonNegative
    """The median of a measurement, or what a cycle model says."""
    fitted: bool = False
    """The estimate was fitted on this very net, among others: it says nothing of how good estimates are."""
    valid: bool = True
    """Of the measurement."""

    @property
    def ratio(self) -> float:
        """Found over estimated."""
        return self.found_ms / self.estimated_ms

    @property
    def inside(self) -> bool:
        """Whether what was found lies in the estimate's interval."""
        return self.low_ms <= self.found_ms <= self.high_ms


class Comparisons(Spec, frozen=True, kw_only=True):
    """All of a target, and what became of profiles by it."""

    rows: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    """What profiles of the user's own learnt, or not and why, in sentences."""


class Fits(Spec, frozen=True, kw_only=True):
    """Whether an artifact runs on a machine with so much RAM: one was emulated, with Linux, Python and the runtime."""

    artifact: str
    engine: str
    device: str
    provenance: Provenance
    ram_bytes: Count
    """Of the whole machine, as it is sold."""
    file_bytes: Size
    threads: Count
    ran: bool
    ended_by: Ending
    during: Literal["", "boot", "import", "model"]
    """What was going on when it ended: the start of Linux, the import of the runtime, loading and executing."""
    why: str
    """In words; "" where it ran."""
    inferences: Size
    engine_version: str = ""
    system_bytes: Size | None = None
    """What Linux and its first process take: the RAM less MemAvailable before Python starts."""
    runtime_rss_bytes: Size | None = None
    """Resident when Python and the runtime are imported."""
    peak_rss_bytes: Size | None = None
    """Peak resident set of loading and executing, minus the former."""
    free_bytes: Size | None = None
    """MemAvailable after the inferences, the model still loaded."""
    arena_bytes: Size | None = None


class Failure(Spec, frozen=True, kw_only=True):
    """An artifact that could not be measured, and why."""

    artifact: str
    engine: str
    """"" where the device has none that executes it."""
    error: str
    hint: str = ""
    device: str = ""
    provenance: Provenance = "host"
    """Of the device."""


class Slower(Spec, frozen=True, kw_only=True):
    """Something that takes longer in a quantized artifact than in its float twin."""

    what: str
    """A layer, an operator that both have, or a kind of operator."""
    kinds: tuple[str, ...]
    """Of the quantized artifact's nodes, in the runtime's own words."""
    quantized_ms: NonNegative
    float_ms: NonNegative


class Slowness(Spec, frozen=True, kw_only=True):
    """An artifact that takes longer than its float twin, and where the time goes."""

    artifact: str
    twin: str
    engine: str
    device: str
    provenance: Provenance
    quantized_ms: NonNegative
    float_ms: NonNegative
    """Medians."""
    operators: tuple[Slower, ...] = ()
    """Most first."""
    how: str = ""
    """Times of operators were had."""
    note: str = ""
    """Why they were not."""


class Report(Spec, frozen=True, kw_only=True):
    """The evidence, in files, and the verdicts of the artifact that is best for the target."""

    target: str
    artifact: str
    verdicts: tuple[Verdict, ...]
    findings: tuple[str, ...]
    html: File
    json: File

    @property
    def ok(self) -> bool:
        """True when every limit holds."""
        return all(verdict.ok for verdict in self.verdicts)
