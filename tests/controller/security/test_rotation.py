from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from thinwire.controller.security.certificates import AUTHORITY_LIFETIME, CertificateError, expiry
from thinwire.controller.security.rotation import SERVING_MARGIN, Material, first, renewed

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAMES = ["thinwire-controller.thinwire.svc"]


def trusts(authorities: bytes, material: Material, at: datetime) -> None:
    """Raises unless a client with these authorities trusts what is served."""
    store = Store(x509.load_pem_x509_certificates(authorities))
    verifier = PolicyBuilder().store(store).time(at).build_server_verifier(x509.DNSName(NAMES[0]))
    verifier.verify(x509.load_pem_x509_certificate(material.serving.certificate), [])


def test_nothing_is_renewed_before_it_is_due():
    material = first(NAMES, NOW)
    due = expiry(material.serving.certificate) - SERVING_MARGIN
    assert renewed(material, NAMES, due) is material
    after = renewed(material, NAMES, due + timedelta(seconds=1))
    assert after.serving != material.serving
    assert after.signer == material.signer
    trusts(material.authorities, after, due + timedelta(seconds=1))


def test_a_new_name_makes_a_new_serving_certificate_and_a_name_less_does_not():
    material = first(NAMES, NOW)
    wider = renewed(material, [*NAMES, "10.0.0.1"], NOW)
    assert wider.serving != material.serving
    assert renewed(wider, NAMES, NOW) is wider


def test_over_twelve_years_a_client_with_authorities_of_up_to_a_year_ago_trusts_what_is_served():
    material = first(NAMES, NOW)
    known: list[tuple[datetime, bytes]] = []
    signers = set()
    for week in range(52 * 12):
        now = NOW + timedelta(weeks=week)
        material = renewed(material, NAMES, now)
        signers.add(material.signer)
        known = [one for one in known if now - one[0] < timedelta(days=364)] + [(now, material.authorities)]
        trusts(known[0][1], material, now)
        trusts(known[-1][1], material, now)
        assert len(x509.load_pem_x509_certificates(material.authorities)) <= 2
    assert len(signers) == 2


def test_a_controller_that_slept_past_its_authoritys_end_begins_anew():
    material = first(NAMES, NOW)
    later = NOW + AUTHORITY_LIFETIME + timedelta(days=1)
    after = renewed(material, NAMES, later)
    assert after.signer != material.signer
    trusts(after.authorities, after, later)


@pytest.mark.parametrize("days", [0, 365 * 8 + 100, 365 * 9 + 100])
def test_what_a_secret_keeps_is_read_back_whole(days: int):
    material = renewed(first(NAMES, NOW), NAMES, NOW + timedelta(days=days))
    assert Material.of_files(material.files()) == material


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tls.crt": b""}, "expected the key 'signer.crt' in the Secret"),
        ({**first(NAMES, NOW).files(), "tls.key": b"x"}, "tls.crt and tls.key of the Secret: .* cannot be read"),
        (
            {**first(NAMES, NOW).files(), "signer.key": first(NAMES, NOW).signer.key},
            "signer.crt and signer.key of the Secret: .* got another key",
        ),
    ],
)
def test_a_secret_that_cannot_be_used_is_named(files: dict[str, bytes], words: str):
    with pytest.raises(CertificateError, match=words):
        Material.of_files(files)
