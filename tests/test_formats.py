import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantunet.formats import INT32, IntFormat, smallest_format

ALL_FORMATS = [
    IntFormat(bit_width, signed, narrow)
    for bit_width in range(1, 33)
    for signed in (False, True)
    for narrow in (False, True)
    if not narrow or (signed and bit_width > 1)
]


@pytest.mark.parametrize(
    ("text", "q_min", "q_max", "c_type"),
    [
        ("u1", 0, 1, "uint8_t"),
        ("s1", -1, 0, "int8_t"),
        ("u8", 0, 255, "uint8_t"),
        ("s8", -128, 127, "int8_t"),
        ("s8n", -127, 127, "int8_t"),
        ("s9", -256, 255, "int16_t"),
        ("u17", 0, 131071, "uint32_t"),
        ("s32", -(2**31), 2**31 - 1, "int32_t"),
    ],
)
def test_range_and_type_of_a_named_format(text, q_min, q_max, c_type):
    parsed = IntFormat.parse(text)
    assert (parsed.q_min, parsed.q_max, parsed.c_type) == (q_min, q_max, c_type)


def test_every_format_is_read_back_from_its_name():
    assert len(ALL_FORMATS) == 95
    assert [IntFormat.parse(str(each)) for each in ALL_FORMATS] == ALL_FORMATS


def test_number_of_codes():
    assert all(each.q_max - each.q_min + 1 == 2**each.bit_width - each.narrow_range for each in ALL_FORMATS)


@pytest.mark.parametrize("text", ["", "u", "8", "x8", "u0", "u33", "u8n", "s1n", "s-1", "s٣", "u 8", "u008", "S8"])
def test_what_names_no_format_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - one of several messages, by the kind of fault
        IntFormat.parse(text)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_smallest_format_is_the_narrowest_that_holds_both(a, b):
    low, high = min(a, b), max(a, b)
    smallest = smallest_format(low, high)
    assert smallest.q_min <= low <= high <= smallest.q_max
    assert smallest.signed is (low < 0)
    if smallest.bit_width > 1:
        narrower = IntFormat(smallest.bit_width - 1, smallest.signed)
        assert low < narrower.q_min or high > narrower.q_max


def test_smallest_format_ends_at_32_bits():
    assert smallest_format(-(2**31), 0) == INT32
    assert smallest_format(0, 2**32 - 1) == IntFormat(32, False)
    for low, high in ((-(2**31) - 1, 0), (0, 2**32), (-1, 2**31)):
        with pytest.raises(ValueError, match="32 bits"):
            smallest_format(low, high)


def test_the_table_of_the_documentation():
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    rows = re.findall(r"^\| `([us]\d+n?)` \| (\d+).* \| (\S+) to (\S+)( - 1)? \| `(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for name, bit_width, low, high, less_one, c_type in rows:
        parsed = IntFormat.parse(name)
        limits = [-(2**31) if text == "-2^31" else 2**31 if text == "2^31" else int(text) for text in (low, high)]
        assert [parsed.q_min, parsed.q_max + bool(less_one)] == limits
        assert (parsed.bit_width, parsed.c_type) == (int(bit_width), c_type)
