"""The attack of `./scripts/bench --proposals`, and the results that it must show."""

import json

from bench.proposals import SENT_BY, Attacked, page, request, to_json
from dicomd.upperlayer.negotiation import AssociateRequest
from dicomd.upperlayer.proposals import read_proposal
from dicomd.upperlayer.reader import MAX_ASSOCIATE_RQ


def test_the_request_is_as_large_as_may_be_and_one_that_is_taken() -> None:
    sent = request()
    assert 0.8 * MAX_ASSOCIATE_RQ < len(sent) - 6 <= MAX_ASSOCIATE_RQ
    proposal = read_proposal(AssociateRequest.from_body(sent[6:]).variable_items)
    assert len(proposal.contexts) == len(set(proposal.contexts)) == 128


def test_ratios_are_those_of_each_turn() -> None:
    one = Attacked([100.0, 200.0, 400.0], [90.0, 100.0, 40.0], memory_before=100, memory_after=119)
    assert one.keeps == 0.5
    found = dict.fromkeys(SENT_BY, one)
    assert page(found).count("| met") == 2 * len(SENT_BY)
    one.beside[1] = 99.0
    one.memory_after = 121
    assert page(found).count("not met") == 2 * len(SENT_BY)
    assert json.loads(to_json(found)).keys() == SENT_BY.keys()
