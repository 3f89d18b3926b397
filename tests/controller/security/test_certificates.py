from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from thinwire.controller.security.certificates import (
    SERVING_LIFETIME,
    CertificateError,
    KeyPair,
    expiry,
    loaded,
    names_of,
    new_authority,
    new_serving,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAMES = ["thinwire-controller.thinwire.svc", "localhost", "127.0.0.1", "::1"]


def verify(authority: KeyPair, serving: KeyPair, name: str, at: datetime = NOW) -> None:
    store = Store([x509.load_pem_x509_certificate(authority.certificate)])
    verifier = PolicyBuilder().store(store).time(at).build_server_verifier(x509.DNSName(name))
    verifier.verify(x509.load_pem_x509_certificate(serving.certificate), [])


def test_a_serving_certificate_holds_for_its_names_and_no_others():
    authority = new_authority(NOW)
    serving = new_serving(authority, NAMES, NOW)
    assert names_of(serving.certificate) == set(NAMES)
    verify(authority, serving, NAMES[0])
    with pytest.raises(VerificationError):
        verify(authority, serving, "kubernetes.default.svc")


def test_a_serving_certificate_does_not_hold_under_another_authority():
    with pytest.raises(VerificationError):
        verify(new_authority(NOW), new_serving(new_authority(NOW), NAMES, NOW), NAMES[0])


def test_a_serving_certificate_holds_for_its_lifetime_and_for_clocks_that_are_a_little_behind():
    authority = new_authority(NOW)
    serving = new_serving(authority, NAMES, NOW)
    assert expiry(serving.certificate) == NOW + SERVING_LIFETIME
    verify(authority, serving, NAMES[0], NOW - timedelta(minutes=5))
    verify(authority, serving, NAMES[0], NOW + SERVING_LIFETIME - timedelta(seconds=1))
    with pytest.raises(VerificationError):
        verify(authority, serving, NAMES[0], NOW + SERVING_LIFETIME + timedelta(seconds=1))


def test_a_serving_certificate_signs_no_others():
    authority = new_authority(NOW)
    serving = new_serving(authority, NAMES, NOW)
    store = Store([x509.load_pem_x509_certificate(authority.certificate)])
    verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("grandchild"))
    with pytest.raises(VerificationError):
        verifier.verify(
            x509.load_pem_x509_certificate(new_serving(serving, ["grandchild"], NOW).certificate),
            [x509.load_pem_x509_certificate(serving.certificate)],
        )


@pytest.mark.parametrize("names", [[], ["exämple"]])
def test_names_that_no_certificate_can_have_are_refused(names: list[str]):
    with pytest.raises(CertificateError, match="expected"):
        new_serving(new_authority(NOW), names, NOW)


def test_a_key_of_another_certificate_is_refused():
    with pytest.raises(CertificateError, match="got another key"):
        loaded(KeyPair(new_authority(NOW).certificate, new_authority(NOW).key))


@pytest.mark.parametrize("pair", [KeyPair(b"", b""), KeyPair(b"x", b"y")])
def test_what_is_no_pair_is_refused(pair: KeyPair):
    with pytest.raises(CertificateError, match="cannot be read"):
        loaded(pair)


def test_a_key_never_shows_in_a_log():
    assert b"PRIVATE" in new_authority(NOW).key
    assert "PRIVATE" not in repr(new_authority(NOW))
