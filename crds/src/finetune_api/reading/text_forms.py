"""What a text field accepts, in words and with an example. An error shows these instead of a regular expression."""

from __future__ import annotations

_DNS_NAME = "lower-case letters, digits, dots and hyphens, with a letter or digit first and last"
_LABEL = "up to 63 letters, digits, dots, hyphens and underscores, with a letter or digit first and last"

TEXT_FORMS = {
    r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$":
        "up to 40 lower-case letters, digits and hyphens, with a letter first and no hyphen last, such as my-job",
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$":
        "up to 63 lower-case letters, digits and hyphens, with a letter or digit first and last, such as team-a",
    r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?(/[a-z0-9-]{1,64})?$":
        "the name of a job, or NAME/UID, such as my-job",
    r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$": f"{_DNS_NAME}, such as s3-credentials",
    r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$": f"{_LABEL}, such as NVIDIA-L4",
    r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$":
        f"{_LABEL}; a domain and a slash may stand before them, such as nvidia.com/gpu",
    r"^[A-Za-z0-9_.]{1,200}$": "letters, digits, underscores and dots, such as q_proj",
    r"^[A-Za-z0-9_.*?\[\]-]{1,200}$":
        "letters, digits, and the characters _ . - * ? [ ], such as *.bias",
    r"^[A-Za-z0-9_]([A-Za-z0-9_.:-]*[A-Za-z0-9_])?$":
        "letters, digits, underscores, dots and hyphens, such as my_rewards.by-length",
    r"^[A-Za-z0-9_.-]{1,100}$": "up to 100 letters, digits, dots, hyphens and underscores, such as train",
    r"^[a-z0-9-]{1,64}$": "up to 64 lower-case letters, digits and hyphens, such as eu-central-1",
    r"^[0-9a-f]{64}$": "a SHA-256 digest: 64 hexadecimal digits in lower case, as sha256sum prints them",
    r"^https?://[^\s?#@]+$":
        "an address that starts with https:// or http://, without user name, password, query or blank, such as "
        "https://s3.example.com",
}
"""Words for each pattern of a field that users write."""


def describe_form(pattern: str) -> str:
    """What a text must be to match a pattern, in words; the pattern itself if it has no words here."""
    return TEXT_FORMS.get(pattern, f"text of the form {pattern}")
