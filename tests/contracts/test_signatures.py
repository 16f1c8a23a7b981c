"""The text of a signature, and that nothing of a signed message can be changed."""

import json
from itertools import product

import pytest

from card_worker.contracts.dead_letters import Unreadable
from card_worker.contracts.envelope import Call, call_of, read_envelope
from card_worker.contracts.signatures import read_signature
from card_worker.secrets.signing import (
    Algorithm,
    NotAKey,
    SigningKey,
    Verify,
    base_of,
    ed25519_verifier,
    hmac_secret,
    hmac_verifier,
)
from card_worker.worker.messages import TASKS

TASK = "cards.activate"
PEPPER = bytes(range(32))
FIELDS = {
    "account_id": "P12345678",
    "command_id": "sale-4711",
    "card_id": "card-01",
    "amount": 50_000,
    "currency": "NOK",
    "metadata": {"note": 'Kjære "Åse" \u2028 \U0001f600'},
}
SIGNED = json.dumps(FIELDS)


def of(algorithm: Algorithm, key_id: str = "shop-1") -> tuple[SigningKey, Verify]:
    if algorithm is Algorithm.HMAC_SHA256:
        key = SigningKey.derived(key_id, PEPPER)
        return key, hmac_verifier(hmac_secret(key_id, PEPPER))
    key = SigningKey.new(key_id)
    return key, ed25519_verifier(key.public_key)


def read(body: bytes, task: str = TASK) -> Call:
    headers = {"task": task, "id": "m-1"}
    content = {"content_type": "application/json", "content_encoding": "utf-8"}
    return read_envelope(headers, body, **content, tasks=TASKS)


def is_accepted(call: Call, verify: Verify) -> bool:
    return call.signature is not None and verify(call.signature.base, call.signature.value)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_no_bit_of_a_signed_message_can_be_changed(algorithm: Algorithm) -> None:
    key, verify = of(algorithm)
    kwargs = {"signed": SIGNED, "signature": key.sign(TASK, SIGNED)}
    body = json.dumps([[], kwargs, {}]).encode()
    original = read(body)
    assert is_accepted(original, verify)
    assert original.kwargs == FIELDS
    refused = 0
    for place, bit in product(range(len(body)), range(8)):
        changed = bytearray(body)
        changed[place] ^= 1 << bit
        try:
            call = read(bytes(changed))
        except Unreadable:
            refused += 1
            continue
        # Only what means the same is accepted, such as \\u00E6 for \\u00e6, or is unsigned.
        if call.signature is None or not is_accepted(call, verify):
            assert call.signature is not None or call != original
            refused += 1
        else:
            assert call.kwargs == original.kwargs
    assert refused > 0.95 * 8 * len(body)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_signature_is_of_one_task_one_key_and_one_time(algorithm: Algorithm) -> None:
    key, verify = of(algorithm)
    text = key.sign(TASK, SIGNED, at=1_795_000_000)
    version, key_id, time, value = text.split(",")
    assert (version, key_id, time) == (algorithm, "shop-1", "1795000000")
    for task, signature in (
        ("cards.create", text),
        (TASK, f"{version},shop-2,{time},{value}"),
        (TASK, f"{version},{key_id},1795000001,{value}"),
    ):
        other = read_signature(task, {"signed": SIGNED, "signature": signature})
        assert not verify(other.base, other.value)
    _, foreign = of(algorithm, "shop-1" if algorithm is Algorithm.ED25519 else "shop-2")
    mine = read_signature(TASK, {"signed": SIGNED, "signature": text})
    assert verify(mine.base, mine.value)
    assert not foreign(mine.base, mine.value)


def test_no_two_messages_sign_the_same_bytes() -> None:
    texts = ("", "a", "b", "ab", "ba", "1", "11", "\0\0\0\1a")
    bases = {base_of(task, key_id, 1, signed) for task, key_id, signed in product(texts, repeat=3)}
    assert len(bases) == len(texts) ** 3


V = "A" * 43 + "="


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "v1",
        f"v1,k,1,{V},",
        f"v2,k,1,{V}",
        f"V1,k,1,{V}",
        f"v1,,1,{V}",
        f"v1,k k,1,{V}",
        f"v1,{'k' * 65},1,{V}",
        f"v1,k\u0661,1,{V}",
        *(
            f"v1,k,{time},{V}"
            for time in ("", "0", "01", "-1", "+1", "1.0", "1e9", "\u0661", "9" * 12)
        ),
        f"v1,k,1,{V[:-1]}",
        f"v1,k,1,{V} ",
        f"v1,k,1,{'B' * 43}=",  # bits behind the last byte
        f"v1,k,1,{'-' * 43}=",
        f"v1a,k,1,{V}",  # too short for Ed25519
        f"v1,k,1,{'A' * 86}==",
    ],
)
def test_a_signature_has_one_spelling(signature: str) -> None:
    with pytest.raises(Unreadable, match="signature_malformed"):
        read_signature(TASK, {"signed": "{}", "signature": signature})


@pytest.mark.parametrize(
    "signed",
    ["", "[]", "null", "{", "{} {}", '{"a": NaN}', '{"a": 1, "a": 1}', '{"a": "\\ud800"', "\ud800"],
)
def test_what_is_signed_is_strict_json(signed: str) -> None:
    kwargs = {"signed": signed, "signature": f"v1,k,1,{V}"}
    with pytest.raises(Unreadable, match="signature_malformed"):
        call_of(TASK, kwargs)


def test_an_unsigned_command_has_no_fields_of_a_signature() -> None:
    call = call_of(TASK, dict(FIELDS))
    assert call.signature is None


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsk_x", "whsec_AAAA", f"whpk_{V}", f"whsk_{V}=", V]
)
def test_a_wrong_key_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(NotAKey) as refused:
        SigningKey("shop", secret)
    assert "AAAA" not in str(refused.value)
    with pytest.raises(NotAKey):
        SigningKey("a,b", f"whsec_{V}")
