"""Words of the keyed noise: known answers of Philox4x32-10; a stream is a function of its name.

Source of the known answers: Salmon et al. 2011, doi:10.1145/2063384.2063405, as published with
Random123 (kat_vectors).
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpc_bnn.bayes import _noise, noise, noise_cpu, noise_reference
from hpc_bnn.bayes.noise import Purpose, Stream

ALL = 0xFFFFFFFF
LEVELS = range(noise_cpu.LEVEL + 1)
OFFSETS = (0, 1, 2, 3, 5, 251, 255, 256, 257, 1021, 2**34 - 3, 2**34 + 1, 2**40 + 7, 2**50 + 2)
COUNTS = (0, 1, 2, 3, 4, 5, 255, 256, 257, 1000)

# counter (4 words), key (2 words), answer (4 words)
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL, ALL, ALL, ALL), (ALL, ALL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def signed(bits: int) -> int:
    """Return the int64 that has the 64 ``bits``."""
    return bits - (1 << 64) if bits >> 63 else bits


def kernel_words(stream: Stream, offset: int, count: int, *, level: int, threads: int) -> Tensor:
    out = torch.full((count,), -1, dtype=torch.int32)
    noise_cpu.fill(noise.WORDS, out, stream, offset, level=level, threads=threads)
    return out


def reference_words(stream: Stream, offset: int, count: int) -> Tensor:
    out = torch.full((count,), -1, dtype=torch.int32)
    noise_reference.words(out, stream, offset)
    return out


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_kernel_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...], level: int
) -> None:
    out = torch.empty(4, dtype=torch.int32)
    block, both = counter[0] | counter[1] << 32, key[0] | key[1] << 32
    _noise.fill(
        *(noise.WORDS, out.data_ptr(), 0, 0, 0, 0, 4, both, counter[2], counter[3]),
        *(block, 0, 1.0, 1, level),
    )
    assert tuple((out.long() & ALL).tolist()) == answer


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_reference_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    block, both = counter[0] | counter[1] << 32, key[0] | key[1] << 32
    words = noise_reference.blocks(both, torch.tensor([signed(block)]), counter[2], counter[3])
    assert tuple(words[0].tolist()) == answer


def test_first_words_of_the_first_stream_are_the_first_known_answer() -> None:
    words = noise.words(Stream(0, Purpose.WEIGHTS), 4)
    assert words.dtype == torch.int64
    assert tuple(words.tolist()) == KNOWN_ANSWERS[0][2]


def test_each_part_of_the_name_has_its_place_in_counter_and_key() -> None:
    # The third known answer has a key beyond the seeds; any block shows the places as well.
    stream = Stream(0x9876_5432_10AB, Purpose.DROPOUT, step=0xFFFFFFFF, sample=0x80000001)
    key = 0x9876_5432_10AB + (4 << 48)
    expected = noise_reference.blocks(key, torch.tensor([2**33 + 1]), 0xFFFFFFFF, 0x80000001)[0]
    assert torch.equal(noise.words(stream, 4, offset=4 * (2**33 + 1)), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_kernel_equals_reference_bit_for_bit(level: int) -> None:
    stream = Stream(2**47 + 12345, Purpose.AUGMENTATION, step=2**31 + 5, sample=2**32 - 2)
    for offset, count in itertools.product(OFFSETS, COUNTS):
        got = kernel_words(stream, offset, count, level=level, threads=1)
        assert torch.equal(got, reference_words(stream, offset, count)), (offset, count)


# Enough for four threads; one element beyond equal parts of whole tiles, and no multiple of a tile
@pytest.mark.parametrize("count", [4 * 2**15 + 1, 5 * 2**15 + 77])
@pytest.mark.parametrize("offset", [0, 3, 2**34 + 1])
def test_words_are_the_same_for_every_level_and_number_of_threads(offset: int, count: int) -> None:
    stream = Stream(7, Purpose.ORDER, step=3, sample=1)
    expected = reference_words(stream, offset, count)
    for level, threads in itertools.product(LEVELS, (1, 2, 3, 4)):
        got = kernel_words(stream, offset, count, level=level, threads=threads)
        assert torch.equal(got, expected), (level, threads)


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level"):
        kernel_words(Stream(0, Purpose.WEIGHTS), 0, 4, level=noise_cpu.LEVEL + 1, threads=1)


@settings(max_examples=60, deadline=None)
@given(
    start=st.one_of(st.integers(0, 2000), st.integers(2**34 - 600, 2**34 + 600)),
    lengths=st.lists(st.integers(0, 600), min_size=1, max_size=6),
    step=st.integers(0, 2**32 - 1),
)
def test_any_split_of_a_range_gives_the_same_words(
    start: int, lengths: list[int], step: int
) -> None:
    stream = Stream(11, Purpose.WEIGHTS, step, 4)
    whole = noise.words(stream, sum(lengths), offset=start)
    begins = itertools.accumulate(lengths[:-1], initial=start)
    parts = [noise.words(stream, n, offset=b) for b, n in zip(begins, lengths, strict=True)]
    assert torch.equal(torch.cat(parts), whole)


def test_every_part_of_the_name_changes_the_words() -> None:
    streams = [
        Stream(seed, purpose, step, sample)
        for seed in (0, 1, 1 << 31, 1 << 32, 1 + (1 << 32), 1 << 47)
        for purpose in Purpose
        for step in (0, 1, 1 << 31)
        for sample in (0, 1, 1 << 31)
    ]
    firsts = {tuple(noise.words(stream, 4).tolist()) for stream in streams}
    assert len(firsts) == len(streams)


def test_seeds_that_differ_above_bit_32_differ() -> None:
    # torch.Generator takes the low 32 bits of a seed only.
    low, high = Stream(1, Purpose.WEIGHTS), Stream(1 + (1 << 32), Purpose.WEIGHTS)
    assert not torch.equal(noise.normals(low, (64,)), noise.normals(high, (64,)))
    same = [torch.randn(64, generator=torch.Generator().manual_seed(s.seed)) for s in (low, high)]
    assert torch.equal(*same), "torch has mended its generator: the remark in the design is stale"


@pytest.mark.parametrize(("field", "limit"), [("seed", 2**48), ("step", 2**32), ("sample", 2**32)])
def test_stream_refuses_what_does_not_fit_the_counter(field: str, limit: int) -> None:
    arguments = {"seed": 0, "step": 0, "sample": 0}
    Stream(purpose=Purpose.WEIGHTS, **{**arguments, field: limit - 1})
    for value in (-1, limit):
        with pytest.raises(ValueError, match=rf"{field} = {value}.*2\*\*{limit.bit_length() - 1}"):
            Stream(purpose=Purpose.WEIGHTS, **{**arguments, field: value})


def test_purposes_keep_their_published_numbers() -> None:
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "WEIGHTS": 0,
        "PREDICTION": 1,
        "ORDER": 2,
        "AUGMENTATION": 3,
        "DROPOUT": 4,
        "OBSERVATION": 5,
        "FOREIGN": 6,
        "INITIAL": 7,
        "ANCHORS": 8,
        "TARGETS": 9,
        "DYNAMICS": 10,
        "DEVIATIONS": 12,
        "PREDICTION_DROPOUT": 13,
        "FACTOR": 14,
        "LAPLACE": 15,
        "PERTURBATION": 16,
        "PERTURBED_INPUT": 17,
        "PERTURBED_VALIDATION": 18,
    }


def test_uniforms_are_the_top_24_bits_of_the_words() -> None:
    stream = Stream(5, Purpose.AUGMENTATION, 1, 2)
    values = noise.uniforms(stream, (16, 64), offset=3)
    expected = (noise.words(stream, 1024, offset=3) >> 8).double() / 2**24
    assert values.shape == (16, 64) and values.dtype == torch.float32
    assert torch.equal(values.double().flatten(), expected)
    assert values.min() >= 0 and values.max() < 1


def test_permutation_is_one_and_belongs_to_its_stream() -> None:
    first = noise.permutation(Stream(3, Purpose.ORDER, step=0), 1000)
    again = noise.permutation(Stream(3, Purpose.ORDER, step=0), 1000)
    other = noise.permutation(Stream(3, Purpose.ORDER, step=1), 1000)
    assert first.dtype == torch.int64
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, torch.arange(1000))
    assert noise.permutation(Stream(3, Purpose.ORDER), 0).tolist() == []
    assert noise.permutation(Stream(3, Purpose.ORDER), 1).tolist() == [0]


def test_permutations_of_four_are_all_equally_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    draws = 24 * 400
    for epoch in range(draws):
        order = tuple(noise.permutation(Stream(9, Purpose.ORDER, epoch), 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    chi_square = sum((count - 400) ** 2 / 400 for count in counts.values())
    # chi-square of 23 degrees of freedom: mean 23, standard deviation sqrt(46); five of them
    assert chi_square < 23 + 5 * 46**0.5
