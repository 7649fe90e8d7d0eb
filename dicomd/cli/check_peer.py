"""`dicomd check-peer`: say whether a peer would be admitted, what it may do, and which rule decides."""

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomd.cli.options import ae_title_option, config_option, load_or_exit, version_option

if TYPE_CHECKING:
    from dicomd.net.access import AccessDecision
    from dicomd.net.rejection import Rejection


def _address(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        ip_address(value.partition("%")[0])
    except ValueError as error:
        raise click.BadParameter(f'"{value}" is not an IP address, such as 10.1.2.3', ctx, param) from error
    return value


@click.command("check-peer")
@ae_title_option("--calling", required=True, help="Calling AE Title of the peer.")
@ae_title_option("--called", required=True, help="Called AE Title that the peer uses for dicomd.")
@click.option("--address", required=True, callback=_address, metavar="IP", help="Address that the peer connects from.")
@click.option(
    "--certificate",
    "certificate_names",
    multiple=True,
    metavar="NAME",
    help="A name in the peer's TLS certificate; may be repeated.",
)
@config_option
@version_option
@click.pass_context
def check_peer(
    ctx: click.Context, calling: str, called: str, address: str, certificate_names: tuple[str, ...], config_path: Path
) -> None:
    """Say whether a peer would be admitted, and why.

    For a peer that is admitted, also say what it may do, how many Associations it may have open, and which rule
    decides. The answer is that of the configuration file, which a running daemon uses only after its next reload or
    start. It ignores what changes from minute to minute: whether the store accepts instances, and how many
    Associations are open. Exit status: 0 for a peer that is admitted, 1 for one that isn't, 78 for a configuration
    that can't be used.
    """
    from dicomd.net.access import Source, normal_address
    from dicomd.worker.access_rules import access_rules

    rules = access_rules(load_or_exit(config_path))
    source = Source(normal_address(address), certificate_names)
    if reason := rules.refuses_address(source.address):
        click.echo(f"refused: connection refused before negotiation, by peers.addresses: {reason}")
        ctx.exit(1)
    decision = rules.judge(calling=calling, called=called, source=source)
    if decision.refusal is not None:
        click.echo(f"refused: {_rejection(decision.refusal)}, by {decision.rule}: {decision.refusal.advice}")
        ctx.exit(1)
    click.echo(f"admitted: {decision.peer or 'unknown'}, by {decision.rule}")
    click.echo(f"may: {_rights(decision)}")
    whose = "it" if decision.peer else "its address"
    click.echo(f"Associations at once: {decision.associations} for {whose}, by {decision.limited_by}")
    if decision.audited is not None:
        rejection = decision.audited.rejection
        click.echo(
            f'access.mode = "enforce" would refuse this peer: {_rejection(rejection)}, by {decision.audited.rule}: '
            f"{rejection.advice}"
        )
    elif decision.rights != decision.configured_rights:
        click.echo(f'access.mode = "enforce" would allow only: {_rights(decision, configured=True)}')


def _rejection(rejection: "Rejection") -> str:
    return f"A-ASSOCIATE-RJ {rejection.reason}"


def _rights(decision: "AccessDecision", *, configured: bool = False) -> str:
    rights = decision.configured_rights if configured else decision.rights
    return ", ".join(name for name in ("echo", "store") if getattr(rights, name)) or "nothing"
