import pytest

from margo_gitops.digests import parse_digest, sha256

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_digest_is_sha256_over_the_exact_bytes():
    assert sha256(b"") == EMPTY


def test_a_digest_reads_back():
    assert parse_digest(EMPTY) == EMPTY


@pytest.mark.parametrize("text", ["sha512:" + "0" * 128, EMPTY.upper(), EMPTY + "\n", EMPTY[:-1], "", EMPTY[7:]])
def test_any_other_algorithm_case_or_length_is_refused(text):
    with pytest.raises(ValueError, match="not a sha256 digest"):
        parse_digest(text)
