"""What to write in place of operators that formats of devices do not have."""

import re
from typing import Final

_DATA_DEPENDENT: Final = "compute both cases and choose with torch.where, or keep sizes fixed and pass a mask"

ADVICE: Final[tuple[tuple[str, str], ...]] = (
    (
        r"nonzero|masked_select|_unique|unique_|index_bool",
        "keep all elements, and multiply by a mask what is not wanted",
    ),
    (r"local_scalar_dense|\bitem\b|sym_constrain|_assert_scalar", _DATA_DEPENDENT),
    (r"numpy|tolist", "write it with torch operators; arrays that are fixed belong into a buffer"),
    (r"linalg_inv|linalg_solve|inverse|lu_", "compute the inverse before export and keep it as a buffer"),
    (r"linalg|svd|eig|cholesky|\bqr\b", "compute the factors before export and keep them as buffers"),
    (r"fft|stft", "multiply by a matrix of cosines and one of sines, or move the spectrum into the preprocessing"),
    (r"complex|_real\b|\breal\b|imag|angle|polar|conj", "keep real and imaginary parts as two real tensors"),
    (r"unfold|im2col", "write it as a convolution with a fixed kernel of zeros and ones"),
    (r"fold|col2im", "write it as a transposed convolution with a fixed kernel of zeros and ones"),
    (r"grid_sampl|affine_grid", "resize with torch.nn.functional.interpolate, or sample in the preprocessing"),
    (r"deform|roi_align|\bnms\b", "leave it out of the module, and do it in the code that calls the model"),
    (r"rand|bernoulli|normal_|multinomial|dropout", "give random numbers to the model as an input"),
    (r"ctc|_loss", "leave losses out of the module that is exported"),
    (r"lgamma|digamma|bessel|erfinv|polygamma|igamma", "approximate it by a polynomial, or keep a table as a buffer"),
    (r"sort|topk|median|quantile|kthvalue|mode\b", "use max or argmax, or sort in the code that calls the model"),
    (r"cumprod|logcumsumexp|cummax|cummin", "write it as a product with a triangular matrix, or as a short loop"),
    (r"cumsum", "multiply by a triangular matrix of ones"),
    (r"scatter|index_put|index_add", "build the result with torch.where or torch.cat"),
    (r"bincount|histc|bucketize|searchsorted", "compare with all bins at once, and sum"),
    (r"cdist|pdist", "write distances as (x - y).square().sum(-1).sqrt()"),
    (r"while_loop|cond\b|scan\b|map_impl", _DATA_DEPENDENT),
    (r"lstm|gru|rnn", "write the recurrence as a module of one step, and call it for each step"),
    (r"scaled_dot_product|flex_attention", "write attention as two products and a softmax, with a finite mask"),
    (r"quantize|fake_quant|qtensor", "give the converter the float module; it quantizes"),
)
"""Pattern of an operator's name -> advice; the first that matches counts."""


def advice(operator: str) -> str:
    """What to write instead of an operator such as "aten.linalg_inv_ex".

    >>> advice("aten.linalg_inv_ex")
    'compute the inverse before export and keep it as a buffer'
    """
    for pattern, instead in ADVICE:
        if re.search(pattern, operator):
            return instead
    return "write it with operators that mobile runtimes have: convolutions, products, sums, softmax, ReLU, mean, max"
