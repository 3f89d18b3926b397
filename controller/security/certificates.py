"""The controller's own certificate authority and the serving certificates that it signs: pure functions over PEM bytes.

Time comes in as an argument. Keys are EC P-256; signatures are ECDSA with SHA-256.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME = timedelta(days=3650)
SERVING_LIFETIME = timedelta(days=90)

_CLOCK_SKEW = timedelta(minutes=10)
"""Clocks of pods and of the controller may differ: a new certificate is valid a little before it is made."""


class CertificateError(Exception):
    """A certificate or key cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, in PEM. The key is not in the repr: it must never reach a log."""

    certificate: bytes
    key: bytes = field(repr=False)


def new_authority(now: datetime) -> KeyPair:
    """A certificate authority of its own, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "thinwire-controller-ca")])
    builder = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_serving(authority: KeyPair, names: Sequence[str], now: datetime) -> KeyPair:
    """A serving certificate for DNS names and IP addresses, signed by `authority`, valid for 90 days.

    Raises:
        CertificateError: no names, a name that is neither, or an authority that cannot be read.
    """
    issuer, issuer_key = loaded(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    # The common name is for people; what counts is the alternative names, and it holds 64 characters at most.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "thinwire-controller")])
    builder = (
        _builder(subject, issuer.subject, key.public_key(), now, SERVING_LIFETIME)
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def loaded(pair: KeyPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Parse one of our own pairs; raises CertificateError if it is unreadable or its key belongs to another."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"expected a certificate and its key in PEM, got what cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError("expected the EC key of the certificate, got another key")
    return certificate, key


def check_pair(pair: KeyPair, authorities: bytes) -> None:
    """Raise CertificateError unless the key belongs to the certificate and one of `authorities` issued its chain."""
    try:
        chain = x509.load_pem_x509_certificates(pair.certificate)
        trusted = x509.load_pem_x509_certificates(authorities)
        key = serialization.load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"expected tls.crt, tls.key and ca.crt in PEM, one cannot be read: {error}") from None
    if key.public_key() != chain[0].public_key():
        raise CertificateError("expected tls.key to be the key of tls.crt, got another key; renew both together")
    if not any(_issued(link, issuer) for link in chain for issuer in trusted):
        raise CertificateError("expected ca.crt to hold the authority of tls.crt, got another; renew both together")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def expiry(certificate: bytes) -> datetime:
    """When the first certificate of `certificate` (PEM) ends, in UTC; raises CertificateError."""
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError as error:
        raise CertificateError(f"expected a certificate in PEM, got what cannot be read: {error}") from None


def names_of(certificate: bytes) -> frozenset[str]:
    """The DNS names and IP addresses of a readable certificate."""
    parsed = x509.load_pem_x509_certificate(certificate)
    found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return frozenset((*found.get_values_for_type(x509.DNSName), *addresses))


def is_signed_by(certificate: bytes, authority: bytes) -> bool:
    """Whether `authority` issued `certificate`, both readable."""
    return _issued(x509.load_pem_x509_certificate(certificate), x509.load_pem_x509_certificate(authority))


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    if not names:
        raise CertificateError("expected at least one name for the serving certificate, got none; name the Service")
    return [_alternative(name) for name in dict.fromkeys(names)]


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise CertificateError(f"expected a DNS name or an IP address for the certificate, got {name!r}") from None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
