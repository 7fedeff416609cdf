"""Values that are worth a test of their own."""

import mimetypes
import os

from hypothesis import given
from hypothesis import strategies as st

from sandbox.execution import mime_of

NAMES = st.text(alphabet="a./-", max_size=8) | st.lists(
    st.sampled_from([".", "..", "a", "/", ".csv", ".tar", ".gz", ".png", ".PNG", "é", "."]), max_size=6
).map("".join)


@given(NAMES)
def test_a_mime_type_is_that_of_the_last_suffixes_as_the_standard_library_sees_them(path: str) -> None:
    stem, last = os.path.splitext(path)
    suffixes = os.path.splitext(stem)[1] + last
    assert mime_of(path) == (mimetypes.guess_type(f"file{suffixes}")[0] or "application/octet-stream")
