"""What DCMTK's senders can ask for in a negotiation, and how they react to refusals: the rarer of their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.daemon.conftest import StartDaemon
from tests.support import senders, wire
from tests.support.comparison import assert_stored_as_sent
from tests.support.daemon import Daemon
from tests.support.objects import CT_IMAGE_STORAGE, EXPLICIT_LITTLE, MR_IMAGE_STORAGE, write_file
from tests.support.pydicom_files import sample
from tests.support.relay import Relay
from tests.support.wire import Conversation

pytestmark = pytest.mark.system

REFUSED = "JPEGLSNearLossless_08.dcm"
"""A file without Study Instance UID, which the path needs."""

ROLE_SELECTION, EXTENDED_NEGOTIATION, USER_IDENTITY, USER_IDENTITY_ANSWER = 0x54, 0x56, 0x58, 0x59
"""Sub-items of the User Information (PS3.7 Annex D)."""

PROFILE = rf"""
[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Contexts]
PresentationContext1 = CTImageStorage\Uncompressed
PresentationContext2 = MRImageStorage\Uncompressed
[[SCPSCURoleSelection]]
[Roles]
Role1 = {CT_IMAGE_STORAGE}\Both
[[ExtendedNegotiation]]
[Extended]
ExtendedNegotiation1 = {CT_IMAGE_STORAGE}\010000000000
[[Profiles]]
[Plain]
PresentationContexts = Contexts
[Negotiating]
PresentationContexts = Contexts
SCPSCURoleSelection = Roles
ExtendedNegotiation = Extended
"""


def storescu(relay: Relay, *arguments: str | int | Path) -> senders.Run:
    return senders.run(senders.program("storescu"), *arguments[:-1], *relay.address, arguments[-1])


def asked_and_answered(talk: Conversation, item: int) -> tuple[list[bytes], list[bytes]]:
    """The values of a sub-item of the User Information in the request and in the acceptance."""
    request, acceptance = talk.requestor_pdus[0], talk.acceptor_pdus[0]
    return wire.user_information(request.body).get(item, []), wire.user_information(acceptance.body).get(item, [])


def check(receiver: Daemon, relay: Relay, *, count: int, calling: str = "STORESCU") -> list[Conversation]:
    """Assert that `count` instances were sent and are stored; return the conversations."""
    talks = relay.conversations()
    assert sum(len(talk.stores) for talk in talks) == count
    assert_stored_as_sent(receiver, talks, calling=calling)
    return talks


class TestUserIdentity:
    @pytest.mark.parametrize(
        ("options", "kind"),
        [
            (("-usr", "nobody"), 1),
            (("-usr", "nobody", "-epw"), 2),
            (("--kerberos", "TOKEN"), 3),
            (("--saml", "TOKEN"), 4),
            (("--jwt", "TOKEN"), 5),
        ],
        ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "",
    )
    def test_of_every_kind_is_passed_over(
        self, receiver: Daemon, relay: Relay, tmp_path: Path, options: tuple[str, ...], kind: int
    ) -> None:
        write_file(file := tmp_path / "a.dcm")
        (token := tmp_path / "token").write_text("a ticket, an assertion or a web token")
        done = storescu(relay, *(token if option == "TOKEN" else option for option in options), file)
        assert done.exit_status == 0, done.output
        (talk,) = check(receiver, relay, count=1)
        (asked,), answered = asked_and_answered(talk, USER_IDENTITY)
        assert asked[0] == kind
        assert not answered
        assert not asked_and_answered(talk, USER_IDENTITY_ANSWER)[1]

    def test_a_sender_that_insists_on_an_answer_gives_up_by_itself(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        """Without the answer, it must not assume that it was identified (PS3.7 §D.3.3.7)."""
        write_file(file := tmp_path / "a.dcm")
        done = storescu(relay, "-usr", "nobody", "-rsp", file)
        assert done.exit_status != 0
        assert "Positive response requested but none received" in done.output
        (talk,) = relay.conversations()
        assert talk.acceptor_pdus[0].type == wire.A_ASSOCIATE_AC
        assert receiver.stored() == []


class TestAssociationProfiles:
    def associate(self, receiver: Daemon, relay: Relay, folder: Path, profile: str) -> Conversation:
        """Send a file by this profile of `PROFILE`, and return what was said."""
        write_file(file := folder / "a.dcm")
        (profiles := folder / "profile.cfg").write_text(PROFILE)
        done = storescu(relay, "-xf", profiles, profile, file)
        assert done.exit_status == 0, done.output
        (talk,) = check(receiver, relay, count=1)
        return talk

    def test_roles_and_extended_negotiation_get_their_answers(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        talk = self.associate(receiver, relay, tmp_path, "Negotiating")
        name = b"\0\x19" + CT_IMAGE_STORAGE.encode()
        assert asked_and_answered(talk, ROLE_SELECTION) == ([name + b"\1\1"], [name + b"\1\0"])  # not as SCP
        asked, answered = asked_and_answered(talk, EXTENDED_NEGOTIATION)
        assert asked == [name + bytes((1, 0, 0, 0, 0, 0))]
        assert answered == [name + bytes((2, 0, 3, 0, 0, 0))]

    def test_a_profile_without_them_is_answered_without_them(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        talk = self.associate(receiver, relay, tmp_path, "Plain")
        assert asked_and_answered(talk, ROLE_SELECTION) == asked_and_answered(talk, EXTENDED_NEGOTIATION) == ([], [])


def test_ipv6(start_daemon: StartDaemon, tmp_path: Path) -> None:
    write_file(file := tmp_path / "a.dcm")
    daemon = start_daemon(listen=[{"name": "six", "address": "[::1]:0"}])
    for program in ("storescu", "dcmsend"):
        done = senders.run(senders.program(program), senders.option(program, "-i6"), *daemon.address, file)
        assert done.exit_status == 0, done.output
    assert len(daemon.stored()) == 1


class TestProposals:
    @pytest.mark.parametrize("option", ["-xm", "-xh", "-xn", "-xl", "-x2", "-x3", "-xo", "-x4", "-x5", "-xu", "-xr"])
    def test_videos_and_rare_compressions_are_accepted(self, receiver: Daemon, relay: Relay, option: str) -> None:
        """It proposes them beside, or instead of, the Transfer Syntax that the file has, and so may send nothing."""
        storescu(relay, option, sample("CT_small.dcm"))
        talks = relay.conversations()
        assert {context.result for talk in talks for context in talk.contexts.values()} == {0}
        assert_stored_as_sent(receiver, [talk for talk in talks if talk.stores], calling="STORESCU")

    def test_combined_in_one_context_the_receivers_preference_decides(self, receiver: Daemon, relay: Relay) -> None:
        done = storescu(relay, "+C", "-R", "-xb", sample("MR_small_bigendian.dcm"))
        assert done.exit_status == 0, done.output
        (talk,) = check(receiver, relay, count=1)
        assert {context.transfer_syntax for context in talk.contexts.values()} == {EXPLICIT_LITTLE}


class TestRefusals:
    def test_with_no_halt_the_next_instance_is_stored_over_the_same_association(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        write_file(tmp_path / "good.dcm")
        arguments = ("-nh", "-v", "-xu", "-R", *relay.address, sample(REFUSED), tmp_path / "good.dcm")
        done = senders.run(senders.program("storescu"), *arguments)
        assert done.exit_status == 0, done.output
        (talk,) = relay.conversations()
        assert [f"{response.status:04X}" for response in talk.responses] == ["C001", "0000"]
        assert_stored_as_sent(receiver, [talk], calling="STORESCU", refusals={0xC001})

    def test_without_it_storescu_releases_the_association_and_fails(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        write_file(tmp_path / "good.dcm")
        arguments = ("-xu", "-R", *relay.address, sample(REFUSED), tmp_path / "good.dcm")
        assert senders.run(senders.program("storescu"), *arguments).exit_status != 0
        (talk,) = relay.conversations()
        assert [f"{response.status:04X}" for response in talk.responses] == ["C001"]
        assert talk.requestor_pdus[-1].type == wire.A_RELEASE_RQ
        assert receiver.stored() == []

    def test_dcmsends_report_has_each_instance_with_its_status(
        self, receiver: Daemon, relay: Relay, tmp_path: Path
    ) -> None:
        for name, sop_class in (("ct", CT_IMAGE_STORAGE), ("mr", MR_IMAGE_STORAGE)):
            write_file(tmp_path / f"{name}.dcm", sop_class_uid=sop_class)
        files = [tmp_path / "ct.dcm", sample(REFUSED), tmp_path / "mr.dcm"]
        report = tmp_path / "report.txt"
        options = ("-nh", "-ma", "--create-report-file", report)
        done = senders.run(senders.program("dcmsend"), *options, *relay.address, *files)
        assert done.exit_status == 0, done.output
        (talk,) = relay.conversations()
        assert_stored_as_sent(receiver, [talk], calling="DCMSEND", refusals={0xC001})
        shown = re.findall(r"^DIMSE Status  : (0x\w+)", report.read_text(), re.MULTILINE)
        assert shown == ["0x0000", "0xc001", "0x0000"]
