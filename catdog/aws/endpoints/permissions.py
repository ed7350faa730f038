"""Whether the endpoint's role may do what a deploy asks of it, asked of IAM before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from catdog.aws.account import Account
from catdog.aws.app import say
from catdog.aws.failures import FORBIDDEN, error_code
from catdog.errors import SettingsError
from catdog.sources.addresses import split_s3_uri

READ: Final = "s3:GetObject"


def check_role_reads(account: Account, role_arn: str, prefixes: Sequence[str]) -> None:
    """Raise SettingsError if the role may not read photos under one of these s3:// prefixes.

    Where IAM may not be asked, that is said and nothing is checked; a dry run asks nobody.
    """
    if account.dry_run:
        return
    partition = role_arn.split(":")[1]
    for uri in prefixes:
        bucket, key = split_s3_uri(uri)
        folder = f"arn:{partition}:s3:::{bucket}/{key}".rstrip("/")
        try:
            answer = account.client("iam").simulate_principal_policy(
                PolicySourceArn=role_arn, ActionNames=[READ], ResourceArns=[f"{folder}/photo.jpg"]
            )
        except Exception as error:
            if error_code(error) not in FORBIDDEN:
                raise
            say(f"--allow-s3 {uri}: whether the role may read there wasn't checked (no iam:SimulatePrincipalPolicy)")
            return
        if any(result["EvalDecision"] != "allowed" for result in answer["EvaluationResults"]):
            name = role_arn.rpartition("/")[2]
            raise SettingsError(
                f"--allow-s3 {uri}: the role {name} may not read there; add {READ} on {folder}/* to its policy "
                "(docs/aws/endpoint-role.json), or take another prefix"
            )
