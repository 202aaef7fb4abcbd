"""How the operator reaches the apiserver."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import kopf


def log_in(**kopf_arguments: Any) -> kopf.ConnectionInfo | None:
    """Address and credentials of the apiserver: from the pod's service account, otherwise from KUBECONFIG.

    Args:
        kopf_arguments: what kopf passes to a login handler.

    Returns:
        None if there is neither.
    """
    kopf_arguments.setdefault("settings", kopf.OperatorSettings())
    account = kopf.login_with_service_account(**kopf_arguments)
    if account is None:
        return kopf.login_with_kubeconfig(**kopf_arguments)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if host and port:  # The address: the name would need the cluster's DNS.
        host = f"[{host}]" if ":" in host else host
        account = dataclasses.replace(account, server=f"https://{host}:{port}")
    return account
