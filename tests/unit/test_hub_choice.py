"""Which file of a repository is meant, and which names are refused."""

import pytest

from pyllama_mtp.errors import DownloadError
from pyllama_mtp.hub.choice import choose_head, choose_target
from pyllama_mtp.hub.names import Wanted, check_file_name, checked_revision, is_repository, wanted

UNSLOTH = [
    "BF16/gemma-4-26B-A4B-it-BF16-00001-of-00002.gguf",
    "BF16/gemma-4-26B-A4B-it-BF16-00002-of-00002.gguf",
    "README.md",
    "config.json",
    "gemma-4-26B-A4B-it-IQ4_XS.gguf",
    "gemma-4-26B-A4B-it-Q4_0.gguf",
    "gemma-4-26B-A4B-it-Q4_K_M.gguf",
    "gemma-4-26B-A4B-it-UD-Q4_K_M.gguf",
    "gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf",
    "imatrix-Q8_0.gguf",
    "mmproj-BF16.gguf",
    "mmproj-Q4_0.gguf",
    "mtp-gemma-4-26B-A4B-it-Q4_0.gguf",
    "mtp-gemma-4-26B-A4B-it-Q8_0.gguf",
]
GOOGLE = ["gemma-4-E2B_q4_0-it.gguf", "gemma-4-E2B-it-mmproj.gguf", "README.md"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        (None, "gemma-4-26B-A4B-it-Q4_K_M.gguf"),
        ("q4_0", "gemma-4-26B-A4B-it-Q4_0.gguf"),
        ("Q4_K_M", "gemma-4-26B-A4B-it-Q4_K_M.gguf"),
        ("UD-Q4_K_M", "gemma-4-26B-A4B-it-UD-Q4_K_M.gguf"),
        ("Q4_K_XL", "gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"),
        ("*it-iq4_xs*", "gemma-4-26B-A4B-it-IQ4_XS.gguf"),
        ("gemma-4-26B-A4B-it-Q4_0.gguf", "gemma-4-26B-A4B-it-Q4_0.gguf"),
    ],
)
def test_a_quantisation_or_a_pattern_names_one_file(pattern, expected):
    assert choose_target(UNSLOTH, pattern, "owner/repo") == [expected]


def test_all_parts_of_a_split_file_are_taken_in_their_order():
    assert choose_target(UNSLOTH[::-1], "bf16", "owner/repo") == UNSLOTH[:2]
    with pytest.raises(DownloadError, match="lacks part 1 of 2"):
        choose_target(UNSLOTH[1:], "BF16", "owner/repo")
    with pytest.raises(DownloadError, match="lacks part 1 of 99999|expected 1..4096"):
        choose_target(["x-Q4_0-00002-of-99999.gguf"], "Q4_0", "owner/repo")


def test_the_quantisation_may_stand_amid_the_name():
    assert choose_target(GOOGLE, "Q4_0", "owner/repo") == GOOGLE[:1] == choose_target(GOOGLE, None, "owner/repo")


@pytest.mark.parametrize("names, expected", [(["a-F16.gguf", "a-Q8_0.gguf"], "a-Q8_0.gguf"), (["b.gguf"], "b.gguf")])
def test_without_a_usual_quantisation_the_first_is_taken(names, expected):
    assert choose_target(names, None, "owner/repo") == [expected]


def test_what_is_missing_or_ambiguous_is_refused_with_what_is_there():
    with pytest.raises(DownloadError, match="no model for 'Q5_1'.*it-Q4_0.gguf.*UD-Q4_K_XL.gguf"):
        choose_target(UNSLOTH, "Q5_1", "owner/repo")
    with pytest.raises(DownloadError, match="more than one model for '\\*K_M.gguf'.*it-Q4_K_M.gguf.*UD-Q4_K_M.gguf"):
        choose_target(UNSLOTH, "*K_M.gguf", "owner/repo")
    with pytest.raises(DownloadError, match="has no GGUF file of a model"):
        choose_target(["mmproj-F16.gguf", "model.safetensors"], None, "owner/repo")
    with pytest.raises(DownloadError) as caught:
        choose_target([f"m{i}-\x1b[31m-Q2_K.gguf" for i in range(900)], "Q4_0", "owner/repo")
    assert "and 876 more" in str(caught.value) and str(caught.value).isprintable()


def test_heads_are_taken_where_heads_are_meant():
    assert choose_head(UNSLOTH, None, "owner/repo") == ["mtp-gemma-4-26B-A4B-it-Q4_0.gguf"]
    assert choose_head(UNSLOTH, "Q8_0", "owner/repo") == ["mtp-gemma-4-26B-A4B-it-Q8_0.gguf"]
    own = ["my-assistant-Q4_0.gguf"]  # a model of that name is a target where there is nothing else
    assert choose_head(own, None, "owner/repo") == own == choose_target(own, None, "owner/repo")


def test_names_of_repositories():
    assert wanted("unsloth/gemma-4-E2B-it-GGUF:Q4_0") == Wanted("unsloth/gemma-4-E2B-it-GGUF", "Q4_0")
    assert wanted("google/gemma-4-E2B-it-assistant").pattern is None
    for odd in ("gemma", "a/b/c", "../b", "a/..", "a/b:", "a/b\n", "/b", "a/", "a--b/c", "a/b?x", "-a/b", ""):
        assert not is_repository(odd.partition(":")[0]) or odd.endswith(":")
        with pytest.raises(DownloadError, match="owner/repo"):
            wanted(odd)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a//b", "a/../b", "a\\b", "a\x00b", "a\nb", ".", "x" * 256, "a/" * 20]
)
def test_names_that_leave_a_folder_or_hide_are_refused(name):
    with pytest.raises(DownloadError) as caught:
        check_file_name("owner/repo", name)
    assert str(caught.value).isprintable()


def test_names_of_revisions():
    assert [checked_revision(r) for r in (None, "v1.0", "refs/pr/3")] == ["main", "v1.0", "refs/pr/3"]
    for odd in ("", "../x", "a b", "/x", "x/", "a//b", "-x"):
        with pytest.raises(DownloadError, match="revision"):
            checked_revision(odd)
