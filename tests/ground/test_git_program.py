"""The git program, and how it can end."""

from margo_gitops.git_program import last_lines, run_git


def test_a_git_that_the_kernel_kills_says_so():
    done = run_git(["-c", "alias.end=!kill -9 $PPID", "end"], seconds=10, variables={})
    assert (done.returncode, last_lines(done.stderr)) == (-9, ["signal 9 ended it: is there enough memory?"])
