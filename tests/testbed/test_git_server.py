import ssl
import time
import urllib.error
import urllib.request

import pytest
from support.git_cli import Git, GitFailedError

pytestmark = pytest.mark.real


@pytest.fixture
def served(git_server, git):
    """A served repository with one commit, and its id."""
    repository = git_server.add_repository(name="fleet")
    commit = git("source").init().commit({"manifest.json": "{}\n"})
    git("source").run("push", "--quiet", repository.path, "main")
    return repository, commit


def ls_remote(git, url, *settings):
    return git(".").run(
        *(part for setting in settings for part in ("-c", setting)), "ls-remote", url, "refs/heads/main"
    )


def bearer(git_server):
    return f"http.extraHeader=Authorization: Bearer {git_server.token}"


def test_anybody_reads_the_open_way_over_http_and_https(git, git_server, served):
    repository, commit = served

    assert ls_remote(git, repository.http()).startswith(commit)
    assert ls_remote(git, repository.https(), f"http.sslCAInfo={git_server.ca_file}").startswith(commit)


def test_https_is_refused_by_a_client_that_does_not_know_the_authority(git, served):
    with pytest.raises(GitFailedError, match="certificate"):
        ls_remote(git, served[0].https(), "http.sslCAInfo=/dev/null")


def test_a_certificate_of_another_host_is_refused(git, git_server, served):
    with pytest.raises(GitFailedError, match="certificate"):
        ls_remote(git, served[0].other_host(), f"http.sslCAInfo={git_server.ca_file}")


def test_python_verifies_the_servers_certificate_strictly(git_server, served):
    context = ssl.create_default_context(cafile=str(git_server.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(served[0].https("forbidden"), context=context, timeout=10)

    assert caught.value.code == 403
    caught.value.close()


def test_the_token_way_wants_the_token(git, git_server, served):
    repository, commit = served

    assert ls_remote(git, repository.http("token"), bearer(git_server)).startswith(commit)
    with pytest.raises(GitFailedError):
        ls_remote(git, repository.http("token"), "http.extraHeader=Authorization: Bearer wrong")
    assert git_server.token_file.read_text() == f"{git_server.token}\n"
    assert git_server.token_file.stat().st_mode & 0o777 == 0o600


def test_the_basic_way_wants_user_and_password(git, git_server, served):
    repository, commit = served
    user, password = git_server.basic

    url = repository.http("basic").replace("http://", f"http://{user}:{password}@")
    assert ls_remote(git, url).startswith(commit)
    with pytest.raises(GitFailedError):
        ls_remote(git, repository.http("basic"))


def test_mutual_tls_wants_the_client_certificate(git, git_server, served):
    repository, commit = served
    authority = f"http.sslCAInfo={git_server.ca_file}"
    client = [f"http.sslCert={git_server.client_certificate}", f"http.sslKey={git_server.client_key}"]

    assert ls_remote(git, repository.mtls(), authority, *client).startswith(commit)
    with pytest.raises(GitFailedError, match="400"):
        ls_remote(git, repository.mtls(), authority)


@pytest.mark.parametrize("way", ["open", "token", "basic"])
def test_only_the_push_ways_take_pushes(git, git_server, served, way):
    repository, _ = served
    user, password = git_server.basic
    settings = ["-c", bearer(git_server)] if way == "token" else []
    credentials = f"http://{user}:{password}@" if way == "basic" else "http://"
    commit = git("source").commit({"more": "1"})

    with pytest.raises(GitFailedError, match="403"):
        git("source").run(*settings, "push", repository.http(way).replace("http://", credentials), "main")
    git("source").run(
        *settings, "push", "--quiet", repository.http(f"push/{way}").replace("http://", credentials), "main"
    )

    assert Git(repository.path).run("rev-parse", "main") == commit


def test_git_speaks_protocol_version_2(git, git_server, served):
    repository, _ = served

    ls_remote(git, repository.http(), "protocol.version=2")

    deadline = time.monotonic() + 10
    while len(git_server.requests(repository)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    discovery, listing = git_server.requests(repository)
    assert discovery["protocol"] == listing["protocol"] == "version=2"
    assert (discovery["method"], listing["method"]) == ("GET", "POST")
    assert listing["sent"] > 0


def test_a_large_push_and_a_shallow_fetch_come_through(git, served):
    repository, _ = served
    pushed = git("source").commit({f"big-{number}": f"{number}\n" * 300_000 for number in range(4)})
    git("source").run("push", "--quiet", repository.http("push/open"), "main")

    git(".").run("clone", "--quiet", "--depth=1", repository.http(), "copy")

    assert git("copy").run("rev-parse", "HEAD") == pushed


def test_a_repository_is_served_live_from_where_it_is(git, git_server):
    source = git("state").init()
    first = source.commit({"a": "1"})
    repository = git_server.add_repository(source.path, "state")
    assert ls_remote(git, repository.http()).startswith(first)

    second = source.commit({"a": "2"})

    assert ls_remote(git, repository.http()).startswith(second)


@pytest.mark.parametrize(("way", "said"), [("forbidden", "403"), ("broken", "500"), ("busy", "503")])
def test_bad_days_can_be_had(git, served, way, said):
    with pytest.raises(GitFailedError, match=said):
        ls_remote(git, served[0].http(way))


def test_a_portal_answers_with_a_page_instead_of_git(served):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    with opener.open(served[0].http("portal"), timeout=10) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html"


@pytest.mark.parametrize("way", ["moved", "elsewhere"])
def test_redirects_lead_to_the_repository(git, served, way):
    repository, commit = served

    assert ls_remote(git, repository.http(way), "http.followRedirects=true").startswith(commit)
