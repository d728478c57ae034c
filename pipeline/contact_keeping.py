"""What people do with the contacts that an installation keeps: look one up, change keys, keep them in escrow, purge a month.

Belongs here: whose act it is, what stands in its way, and its record. Does not: sealing and keys (`adapters.contact_vault`), or what is
written to customers (`adapters.messages`).
"""

import contextlib
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.adapters.contact_vault import ContactVault, require_passphrase, write_private
from pipeline.adapters.incidents import IncidentRegister
from pipeline.adapters.messages import LocalSink, alone_with, period_of_incident
from pipeline.errors import GateClosed, UsageError
from pipeline.installation import Installation

PURGED = "purge_contacts"
"""The act, as the audit log names it."""


class ContactKeeping(Installation):
    """An installation, with the contacts in the messages it has sent."""

    @cached_property
    def incidents(self) -> IncidentRegister:
        return IncidentRegister(self.server, self.settings.home)

    @cached_property
    def sink(self) -> LocalSink:
        """The channel used by default: sealed files below the home directory."""
        return LocalSink(self.settings.home / "outbox", ContactVault(self.settings.keys))

    def contacts_kept(self) -> list[dict[str, Any]]:
        """Every billing period with messages: `billing_period, state` (kept, purged), `batches`, `purged_by`, `purged_at`."""
        periods = sorted({*self.sink.vault.periods(), *(each.billing_period for each in self.incidents.incidents())})
        return [kept for period in periods if (kept := self._kept(period))["batches"] or kept["state"] == "purged"]

    def read_messages(self, incident_id: str, batch: str | None = None) -> str:
        """The messages of an incident, or of one of its batches, one JSON object a line: what a channel's program takes over.

        Raises:
            UsageError: there is no such incident or batch.
            GateClosed: the month's contacts were purged.
        """
        batches = self.sink.batches(self.incidents.find(incident_id).incident_id)
        if batch is not None and batch not in batches:
            raise UsageError(f"{incident_id} has no batch {batch!r}; it has {', '.join(batches) or 'none'}")
        wanted = batches if batch is None else [batch]
        content = b"".join(self.sink.open(incident_id, name) for name in wanted)
        self.audit_log.append("read_contacts", incident_id, {"batches": wanted})
        return content.decode()

    def find_contact(self, contact: str) -> list[dict[str, Any]]:
        """Customers that messages to a phone number or address were about, by incident; the contact itself is compared with nothing."""
        found = []
        for incident in self.incidents.incidents():
            known = incident.billing_period in self.sink.vault.periods()
            customers = self.sink.found(incident.incident_id, contact) if known else []
            found += [{"incident_id": incident.incident_id, "customer_id": customer} for customer in customers]
        return found

    def rotate_contact_key(self, period: str) -> dict[str, Any]:
        """Give a month a new key and seal its messages anew, also those that an earlier version left in the clear.

        Raises:
            UsageError: nothing of the month is kept, or nobody is logged in.
            GateClosed: its contacts were purged.
            RetriableError: its messages are being sent.
        """
        self._require_kept(period)
        incidents = self._incidents_of(period)
        with (
            self.register.acting("rotate_contact_key", period, self.settings.login, self.settings.password) as detail,
            contextlib.ExitStack() as nobody_sends,
        ):
            for incident in incidents:  # a batch sealed meanwhile by the old key would be lost with it
                nobody_sends.enter_context(alone_with(self.server, incident))
            with self.sink.vault.rotating(period):
                detail["batches"] = sum(map(self.sink.seal_anew, incidents))
        return {"billing_period": period, "batches": detail["batches"]}

    def purge_contacts(self, period: str) -> dict[str, Any]:
        """Destroy a month's key, so that nobody reads its contacts again; returns what `contacts_kept` says of it from then on.

        Raises:
            GateClosed: an incident of the month is open; its customers may still have to be told.
            UsageError: nothing of the month is kept, or nobody is logged in.
        """
        if still := [
            i.incident_id for i in self.incidents.incidents() if i.billing_period == period and not i.closed_at
        ]:
            raise GateClosed(f"{still[0]} is open, and its customers may still have to be told; close it first")
        self._require_kept(period)
        if not self.sink.vault.is_purged(period) or self.register.acted(PURGED, period) is None:
            with self.register.acting(PURGED, period, self.settings.login, self.settings.password) as detail:
                self.sink.vault.destroy(period)
                detail["batches"] = sum(self.sink.forget(incident) for incident in self._incidents_of(period))
        return self._kept(period)

    def escrow_contact_keys(self, out: Path, passphrase_file: Path) -> dict[str, Any]:
        """Write all keys to `out`, sealed under the passphrase in a file: the one way back when the keys here are lost."""
        sealed, periods = self.sink.vault.escrow(require_passphrase(_read(passphrase_file)))
        if not periods:
            raise UsageError("no key is here yet: the first message of a month makes one")
        with self.register.acting("escrow_contact_keys", "all", self.settings.login, self.settings.password) as detail:
            detail["periods"] = periods
            write_private(out, sealed)
        return {"file": str(out), "periods": periods}

    def restore_contact_keys(self, escrow: Path, passphrase_file: Path) -> dict[str, Any]:
        """Bring back keys that are missing here; purged ones stay purged."""
        with self.register.acting("restore_contact_keys", "all", self.settings.login, self.settings.password) as detail:
            try:
                sealed = escrow.read_bytes()
            except OSError as error:
                raise UsageError(f"{escrow} cannot be read: {error.strerror}") from None
            detail["periods"] = self.sink.vault.restore(sealed, require_passphrase(_read(passphrase_file)))
        return {"periods": detail["periods"]}

    def _require_kept(self, period: str) -> None:
        if period not in {kept["billing_period"] for kept in self.contacts_kept()}:
            raise UsageError(
                f"no contacts of {period} are kept here; `makegood contacts list` says of which months there are"
            )

    def _kept(self, period: str) -> dict[str, Any]:
        act = self.register.acted(PURGED, period) if self.sink.vault.is_purged(period) else None
        return {
            "billing_period": period,
            "state": "purged" if self.sink.vault.is_purged(period) else "kept",
            "batches": sum(len(self.sink.batches(incident)) for incident in self._incidents_of(period)),
            "purged_by": act and act["person"],
            "purged_at": act and act["at"],
        }

    def _incidents_of(self, period: str) -> list[str]:
        folders = self.sink.folder.glob("inc-*")
        return sorted(folder.name for folder in folders if period_of_incident(folder.name) == period)


def _read(passphrase_file: Path) -> str:
    try:
        return passphrase_file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{passphrase_file} cannot be read: {error.strerror}") from None
