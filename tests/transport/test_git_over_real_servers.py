"""Pulling by git from the servers that people run: `git http-backend` behind nginx, and OpenSSH."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from device_repository import DEVICE, FIRST, MANIFEST, REF, SECOND, DeviceRepository, git
from testbed.git_server import GitServer, ServedRepository
from testbed.ssh_server import SshServer

from margo_gitops.errors import (
    SourceBusy,
    SourceMisbehaved,
    SourceMisconfigured,
    SourceRefused,
    SourceUnreachable,
    TransportError,
)
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.trust.snapshot import Snapshot

pytestmark = pytest.mark.real


@pytest.fixture
def repository(tmp_path: Path) -> DeviceRepository:
    repository = DeviceRepository.create(tmp_path / "state.git")
    repository.commit(MANIFEST, {FIRST: b"x"})
    return repository


@pytest.fixture
def served(git_server: GitServer, repository: DeviceRepository) -> ServedRepository:
    return git_server.add_repository(repository.path)


def whole_life(source: GitSource, repository: DeviceRepository) -> None:
    """First pull, idle pull, an update as a difference, a ref that vanishes."""
    transport = GitTransport(source)
    try:
        large = os.urandom(50_000).hex().encode()
        tip = repository.commit(MANIFEST, {FIRST: large})
        held = transport.pull(None).snapshot
        assert held == Snapshot(MANIFEST, {FIRST: large}, git(repository.path, "cat-file", "commit", tip), tip)
        assert transport.pull(held).snapshot is None

        before = transport.cost
        tip = repository.commit(b"{}", {FIRST: large + b"more\n", SECOND: b"y"})
        assert isinstance(held, Snapshot)
        after = transport.pull(held).snapshot
        assert isinstance(after, Snapshot)
        assert (after.manifest, after.revision) == (b"{}", tip)
        assert after.deployments == {FIRST: large + b"more\n", SECOND: b"y"}
        assert (transport.cost - before).bytes_down < 3_000

        repository.remove()
        with pytest.raises(SourceRefused, match=REF):
            transport.pull(after)
    finally:
        transport.close()


def failure(source: GitSource) -> TransportError:
    transport = GitTransport(source)
    try:
        with pytest.raises(TransportError) as caught:
            transport.pull(None)
    finally:
        transport.close()
    return caught.value


class TestHttp:
    def test_open(self, served: ServedRepository, repository: DeviceRepository) -> None:
        whole_life(GitSource(served.http(), device=DEVICE), repository)

    def test_https_with_the_authority_of_the_site(
        self, git_server: GitServer, served: ServedRepository, repository: DeviceRepository
    ) -> None:
        whole_life(GitSource(served.https(), device=DEVICE, ca_file=git_server.ca_file), repository)

    def test_bearer_token(self, git_server: GitServer, served: ServedRepository, repository: DeviceRepository) -> None:
        source = GitSource(
            served.https("token"), device=DEVICE, ca_file=git_server.ca_file, token_file=git_server.token_file
        )
        whole_life(source, repository)

    def test_user_and_password(
        self, git_server: GitServer, served: ServedRepository, repository: DeviceRepository
    ) -> None:
        source = GitSource(
            served.https("basic"),
            device=DEVICE,
            ca_file=git_server.ca_file,
            username=git_server.basic[0],
            token_file=git_server.password_file,
        )
        whole_life(source, repository)

    def test_client_certificate(
        self, git_server: GitServer, served: ServedRepository, repository: DeviceRepository
    ) -> None:
        source = GitSource(
            served.mtls(),
            device=DEVICE,
            ca_file=git_server.ca_file,
            client_certificate=git_server.client_certificate,
            client_key=git_server.client_key,
        )
        whole_life(source, repository)

    def test_a_client_certificate_that_is_missing_is_refused_with_what_to_do(
        self, git_server: GitServer, served: ServedRepository
    ) -> None:
        error = failure(GitSource(served.mtls(), device=DEVICE, ca_file=git_server.ca_file))
        assert isinstance(error, SourceRefused)
        assert error.remedy

    def test_a_certificate_of_an_unknown_authority_is_not_trusted(self, served: ServedRepository) -> None:
        error = failure(GitSource(served.https(), device=DEVICE))
        assert isinstance(error, SourceUnreachable)
        assert "not trusted" in error.what

    def test_the_certificate_of_another_host_is_not_trusted(
        self, git_server: GitServer, served: ServedRepository
    ) -> None:
        error = failure(GitSource(served.other_host(), device=DEVICE, ca_file=git_server.ca_file))
        assert isinstance(error, SourceUnreachable)
        assert "localhost" in error.what

    def test_no_token_and_a_wrong_token_are_refused_with_different_remedies(
        self, served: ServedRepository, tmp_path: Path
    ) -> None:
        without = failure(GitSource(served.http("token"), device=DEVICE))
        (tmp_path / "token").write_text("wrong")
        wrong = failure(GitSource(served.http("token"), device=DEVICE, token_file=tmp_path / "token"))
        assert isinstance(without, SourceRefused)
        assert isinstance(wrong, SourceRefused)
        assert without.remedy != wrong.remedy

    @pytest.mark.parametrize(
        ("way", "kind"),
        [
            ("forbidden", SourceRefused),
            ("broken", SourceRefused),
            ("nowhere", SourceRefused),
            ("moved", SourceMisbehaved),
            ("elsewhere", SourceMisbehaved),
            ("portal", SourceMisbehaved),
            ("busy", SourceBusy),
        ],
    )
    def test_what_stands_in_between_on_bad_days(
        self, served: ServedRepository, way: str, kind: type[TransportError]
    ) -> None:
        error = failure(GitSource(served.http(way), device=DEVICE))
        assert type(error) is kind
        if isinstance(error, SourceBusy):
            assert error.retry_after == 7
        else:
            assert error.remedy

    @pytest.mark.parametrize("setting", ["ca_file", "client_certificate"])
    def test_a_file_that_is_no_certificate_is_a_misconfiguration(
        self, git_server: GitServer, served: ServedRepository, tmp_path: Path, setting: str
    ) -> None:
        right = GitSource(served.https(), device=DEVICE, ca_file=git_server.ca_file)
        (tmp_path / "empty.pem").touch()
        for path in (tmp_path / "none.pem", tmp_path / "empty.pem"):
            error = failure(dataclasses.replace(right, **{setting: path}))
            assert isinstance(error, SourceMisconfigured)
            assert path.name in error.what

    @pytest.mark.parametrize("others", [0, 5_000])
    def test_an_idle_poll_costs_the_same_whatever_the_number_of_refs(
        self, served: ServedRepository, repository: DeviceRepository, others: int
    ) -> None:
        """One request, on a new connection too; all bytes count, headers too."""
        repository.add_refs(others)
        first = GitTransport(GitSource(served.http(), device=DEVICE))
        held = first.pull(None).snapshot
        assert isinstance(held, Snapshot)
        first.close()

        polling = GitTransport(GitSource(served.http(), device=DEVICE))
        assert polling.pull(held).snapshot is None
        cold = polling.cost
        assert (cold.requests, cold.connections) == (1, 1)
        assert cold.bytes_down < 350

        assert polling.pull(held).snapshot is None
        kept = polling.cost - cold
        assert (kept.requests, kept.connections) == (1, 0)
        assert kept.bytes_down < 350
        polling.close()


class TestSsh:
    def source(self, ssh_server: SshServer, repository: DeviceRepository) -> GitSource:
        return GitSource(
            ssh_server.url(repository.path),
            device=DEVICE,
            ssh_identity=ssh_server.identity_file,
            ssh_known_hosts=ssh_server.known_hosts_file,
        )

    def test_a_state_is_pulled(self, ssh_server: SshServer, repository: DeviceRepository) -> None:
        whole_life(self.source(ssh_server, repository), repository)

    def test_a_key_that_the_server_does_not_know_is_refused(
        self, ssh_server: SshServer, repository: DeviceRepository
    ) -> None:
        source = dataclasses.replace(self.source(ssh_server, repository), ssh_identity=ssh_server.other_identity_file)
        error = failure(source)
        assert isinstance(error, SourceRefused)
        assert "Permission denied" in error.what

    def test_a_server_with_another_host_key_is_not_trusted(
        self, ssh_server: SshServer, repository: DeviceRepository
    ) -> None:
        known = ssh_server.other_known_hosts_file
        error = failure(dataclasses.replace(self.source(ssh_server, repository), ssh_known_hosts=known))
        assert isinstance(error, SourceUnreachable)
        assert "not the one known" in error.what

    def test_a_server_that_nobody_has_seen_is_not_trusted(
        self, ssh_server: SshServer, repository: DeviceRepository, tmp_path: Path
    ) -> None:
        (tmp_path / "known hosts").touch()
        error = failure(
            dataclasses.replace(self.source(ssh_server, repository), ssh_known_hosts=tmp_path / "known hosts")
        )
        assert isinstance(error, SourceUnreachable)
        assert "not the one known" in error.what

    def test_a_repository_that_is_not_there_is_refused(
        self, ssh_server: SshServer, repository: DeviceRepository, tmp_path: Path
    ) -> None:
        url = ssh_server.url(tmp_path / "it's none.git")
        error = failure(dataclasses.replace(self.source(ssh_server, repository), url=url.replace(" ", "%20")))
        assert isinstance(error, SourceRefused)
        assert "it's none.git" in str(error)

    def test_a_key_file_that_is_missing_is_a_misconfiguration(
        self, ssh_server: SshServer, repository: DeviceRepository, tmp_path: Path
    ) -> None:
        source = dataclasses.replace(self.source(ssh_server, repository), ssh_identity=tmp_path / "none")
        assert isinstance(failure(source), SourceMisconfigured)

    def test_nobody_at_the_port_is_unreachable(self, ssh_server: SshServer, repository: DeviceRepository) -> None:
        source = dataclasses.replace(self.source(ssh_server, repository), url="ssh://127.0.0.1:1/state.git")
        assert isinstance(failure(source), SourceUnreachable)
