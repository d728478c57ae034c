"""The one door through which money leaves, tried at the database itself: what the pipeline's code forgets, `hand_over` refuses."""

import threading
from datetime import timedelta
from uuid import uuid4

import psycopg
import pyarrow as pa
import pytest

from pipeline.adapters.ledger import OPERATION_COLUMNS, PostgresLedger
from pipeline.adapters.postgres import conninfo
from pipeline.errors import FatalError, GateClosed, OutsideWindow, RetriableError, SenderLost, SendingStopped
from pipeline.ports import BatchFile, Noted
from tests.remediation_world import ELEVENTH, THIRTEENTH, TWELFTH, World, charged_and_approved, people

NOTHING = Noted(0, 0)


@pytest.fixture
def world(settings, tmp_path, request) -> World:
    world = World(settings, tmp_path, request.node.nodeid)
    yield world
    world.rail.close()


def charges(world: World, customers: list, wave: int = 0, **columns) -> pa.Table:
    """Intents to charge `customers`, committed."""
    rows = [
        {"operation_id": uuid4().hex, "kind": "charge", "scope": world.run_id, "incident_id": None, "customer_id": c.customer_id,
         "billing_period": "2023-09", "bill_cycle": 1, "occurrence": 1, "attempt": 1, "charge_id": "ch", "amount_minor": c.wrong,
         "currency": "KRW", "payment_method": c.method, "issuer": c.issuer, "instrument_token": c.token, "wave": wave,
         "original_id": None} | columns
        for c in customers
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows).select(OPERATION_COLUMNS)
    world.ledger.intend(table["scope"][0].as_py(), table)
    return table


def batch(intended: pa.Table, sequence: int, **changed) -> BatchFile:
    """A file of `intended`, as far as the books are concerned."""
    total = sum(intended["amount_minor"].to_pylist())
    given = {"path": "p", "staged": "s", "sequence": sequence, "header": f"h{sequence}", "sha256": "0",
             "operation_count": intended.num_rows, "total_minor": total}  # fmt: skip
    return BatchFile(**given | changed)


def recorded(world: World, turn, intended: pa.Table, sequence: int = 1, **changed) -> int:
    scope, wave = intended["scope"][0].as_py(), intended["wave"][0].as_py()
    return world.ledger.record_batch(turn, scope, wave, batch(intended, sequence, **changed))


def test_a_sender_that_lost_its_turn_records_nothing_more(world):
    first, second = charges(world, people(world, 2)), charges(world, people(world, 2), wave=1)
    with world.ledger.sending(world.run_id, NOTHING) as old:
        batch_id = recorded(world, old, first)
        with world.server.connect() as connection:  # as a successor does, once the lock's connection is gone
            connection.execute("SELECT begin_sending(%s, 0, 0, 0)", (world.run_id,))
        for act in (
            lambda: world.ledger.hand_over(old, batch_id),
            lambda: world.ledger.record_event(old, batch_id, "withdrawn"),
            lambda: recorded(world, old, second, 2),
            lambda: world.ledger.end_unsent(old, [world.run_id], "x"),
        ):
            with pytest.raises(SenderLost, match="another sender has taken over"):
                act()
    assert world.rows("SELECT event FROM batch_event WHERE batch_id = %s", batch_id) == []


def test_the_connection_that_holds_the_senders_lock_is_watched(world):
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        turn.require()
        with world.server.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", (turn._lock.info.backend_pid,))
        with pytest.raises(SenderLost, match="connection that holds the sender's lock is lost"):
            turn.require()


def test_a_file_written_under_an_older_turn_is_not_handed_over_under_a_newer_one(world):
    intended = charges(world, people(world, 2))
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        batch_id = recorded(world, turn, intended)
    with (
        world.ledger.sending(world.run_id, NOTHING) as turn,
        pytest.raises(FatalError, match="not one that this sender may"),
    ):
        world.ledger.hand_over(turn, batch_id)


def test_a_file_number_and_a_wave_have_one_file_that_may_move_money(world):
    first, second = charges(world, people(world, 2)), charges(world, people(world, 2), wave=1)
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        one = recorded(world, turn, first, 7)
        with pytest.raises(FatalError, match="has a file already"):
            recorded(world, turn, first, 8)
        with pytest.raises(FatalError, match="file number 7 is another file's"):
            recorded(world, turn, second, 7)
        world.ledger.record_event(turn, one, "withdrawn")
        recorded(world, turn, second, 7)


@pytest.mark.parametrize("changed", [{"operation_count": 1}, {"total_minor": 1}, {"operation_count": 3}])
def test_a_file_that_is_not_of_just_the_waves_operations_is_not_handed_over(world, changed):
    intended = charges(world, people(world, 2))
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        batch_id = recorded(world, turn, intended, **changed)
        with pytest.raises(FatalError, match="its file is"):
            world.ledger.hand_over(turn, batch_id)


def test_a_stop_given_at_any_moment_before_is_obeyed_by_the_hand_over_itself(world):
    intended = charges(world, people(world, 2))
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        batch_id = recorded(world, turn, intended)
        world.register.stop("look", login=None, password=None)
        try:
            with pytest.raises(SendingStopped, match="look"):
                world.ledger.hand_over(turn, batch_id)
        finally:
            world.register.resume("fine", stops=(), login="operator", password=None)
        world.ledger.hand_over(turn, batch_id)


def test_an_incident_opened_at_any_moment_before_holds_the_hand_over_itself(world):
    intended = charges(world, people(world, 2))
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        batch_id = recorded(world, turn, intended)
        world.incidents.open_incident(
            billing_period="2023-09", charge_scope=world.run_id, issuers=[world.issuer], corrected_run=world.corrected
        )
        with pytest.raises(GateClosed, match="holds its bills"):
            world.ledger.hand_over(turn, batch_id)
        world.ledger.record_event(turn, batch_id, "withdrawn")
        assert world.ledger.end_unsent(turn, [world.run_id], "held") == 2
        with pytest.raises(FatalError, match="was ended"):
            recorded(world, turn, intended)


def test_a_run_that_nobody_released_or_somebody_rejected_is_not_handed_over(world):
    intended = charges(world, people(world, 2))
    with world.server.connect("operator") as connection:
        connection.execute("INSERT INTO decision (run_id, kind, reason) VALUES (%s, 'reject', 'no')", (world.run_id,))
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        batch_id = recorded(world, turn, intended)
        with pytest.raises(GateClosed, match="was rejected"):
            world.ledger.hand_over(turn, batch_id)


def voids(world: World, customers: list, scope: str, wave: int = 0, kind: str = "void", attempt: int = 1) -> pa.Table:
    originals = {c.customer_id: c.original for c in customers}
    rows = [
        {"operation_id": uuid4().hex, "kind": kind, "scope": scope, "incident_id": world.incident, "customer_id": c.customer_id,
         "billing_period": "2023-09", "bill_cycle": 1, "occurrence": 1, "attempt": attempt, "charge_id": "ch", "amount_minor": c.wrong,
         "currency": "KRW", "payment_method": c.method, "issuer": c.issuer, "instrument_token": c.token, "wave": wave,
         "original_id": originals[c.customer_id]}
        for c in customers
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows).select(OPERATION_COLUMNS)
    world.ledger.intend(scope, table)
    return table


def test_a_step_is_handed_over_only_of_an_approved_plan_in_its_window(world):
    customers = people(world, 3)
    charged_and_approved(world, customers)
    digest = world.incidents.plans(world.incident)[0].plan_digest
    good = voids(world, customers[:1], f"{world.incident}/{digest[:12]}/cancel")
    nowhere = voids(world, customers[1:2], f"{world.incident}/{'0' * 12}/cancel")
    wrong_step = voids(world, customers[2:], f"{world.incident}/{digest[:12]}/refund")
    late = PostgresLedger(world.server, as_of=THIRTEENTH)
    early = PostgresLedger(world.server, as_of=ELEVENTH - timedelta(days=1))
    ledger = world.ledger
    with ledger.sending(world.run_id, NOTHING) as turn:
        batch_id = recorded(world, turn, good)
        for outside in (late, early):
            with pytest.raises(OutsideWindow, match="outside its window"):
                outside.hand_over(turn, batch_id)
        batch_of_nobody = recorded(world, turn, nowhere, 2)
        with pytest.raises(GateClosed, match="no such plan"):
            ledger.hand_over(turn, batch_of_nobody)
        batch_of_voids = recorded(world, turn, wrong_step, 3)
        with pytest.raises(FatalError, match="of another kind"):
            ledger.hand_over(turn, batch_of_voids)
        world.incidents.reject(digest, reason="wait", login="operator", password=None)
        with pytest.raises(GateClosed, match="rejected by operator"):
            ledger.hand_over(turn, batch_id)


def test_the_pipelines_own_login_writes_no_file_and_no_event_past_the_door(world):
    with psycopg.connect(conninfo(world.server.pipeline_url), autocommit=True) as connection:
        for statement in (
            "INSERT INTO makegood.batch (scope, wave, file_sequence, file_path, sha256, operation_count, total_minor)"
            " VALUES ('s', 0, 1, 'p', '0', 1, 1)",
            "INSERT INTO makegood.batch_event (batch_id, event) VALUES (1, 'handed_over')",
            "UPDATE makegood.sender SET epoch = 1",
            "INSERT INTO makegood.wave_end (scope, wave, reason) VALUES ('s', 0, '')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


@pytest.mark.parametrize("login", ["operator", "approver"])
def test_people_do_not_pass_the_door_at_all(world, login):
    with psycopg.connect(conninfo(world.server.url(login)), autocommit=True) as connection:
        for call in (
            "hand_over(1, 1, NULL, 'UTC')",
            "begin_sending('r', 0, 0, 0)",
            "end_unsent(1, '{}', '')",
            "record_event(1, 1, '', '')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT makegood.{call}")


def test_what_was_not_handed_over_has_no_outcome_and_is_not_unknown(world):
    reference = charges(world, people(world, 1))["operation_id"][0].as_py()
    for statement in (
        "INSERT INTO outcome (operation_id, status, payment_id) VALUES (%s, 'succeeded', '88')",
        "INSERT INTO outcome (operation_id, status, reason) VALUES (%s, 'declined', 'withdrawn')",
        "INSERT INTO outcome (operation_id, status, reason) VALUES (%s, 'declined', 'closed_card')",
        "INSERT INTO unanswered (operation_id) VALUES (%s)",
    ):
        with pytest.raises(FatalError, match="handed over"), world.server.connect() as connection:
            connection.execute(statement, (reference,))


def test_a_bill_is_charged_again_only_after_every_attempt_before_has_failed(world):
    (customer,) = people(world, 1)
    charges(world, [customer])
    with pytest.raises(FatalError, match="only after every attempt before has failed"):
        charges(world, [customer], wave=1, attempt=2)
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        world.ledger.end_unsent(turn, [world.run_id], "held")
    charges(world, [customer], wave=1, attempt=2)
    with pytest.raises(FatalError, match="only after every attempt before has failed"):
        charges(world, [customer], wave=2, attempt=3)


def test_a_bill_whose_charge_was_ended_and_that_an_incident_charged_is_not_charged_by_a_later_release(world):
    (customer,) = people(world, 1)
    charges(world, [customer])
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        world.ledger.end_unsent(turn, [world.run_id], "held")
    incident = world.incidents.open_incident(
        billing_period="2023-09", charge_scope=world.run_id, issuers=[world.issuer], corrected_run=world.corrected
    ).incident_id
    charges(world, [customer], kind="rebill", incident_id=incident, scope=f"{incident}/0/rebill")
    rows = [row for row in world.ledger.charged("2023-09").to_pylist() if row["customer_id"] == customer.customer_id]
    assert [row["is_ended"] for row in sorted(rows, key=lambda row: row["is_ended"])] == [False, True]
    with pytest.raises(FatalError, match="an incident has charged the bill already"):
        charges(world, [customer], wave=1, attempt=2)


def test_two_refunds_at_once_never_exceed_the_charge(world):
    customers = people(world, 1, method="check_card")
    charged_and_approved(world, customers)
    scope = f"{world.incident}/{world.incidents.plans(world.incident)[0].plan_digest[:12]}/refund"
    results, start = [], threading.Barrier(2)

    def refund(attempt: int) -> None:
        with psycopg.connect(conninfo(world.server.pipeline_url), options="-c search_path=makegood") as connection:
            start.wait()
            try:
                connection.execute(
                    "INSERT INTO operation (operation_id, kind, scope, incident_id, customer_id, billing_period, bill_cycle, attempt,"
                    " charge_id, amount_minor, currency, payment_method, issuer, instrument_token, wave, original_id)"
                    " SELECT gen_random_uuid(), 'refund', %s, %s, customer_id, billing_period, bill_cycle, %s, charge_id, amount_minor,"
                    " currency, payment_method, issuer, instrument_token, 0, operation_id FROM operation WHERE operation_id = %s",
                    (scope, world.incident, attempt, customers[0].original),
                )
                connection.execute("SELECT pg_sleep(0.3)")
                connection.commit()
                results.append("in")
            except psycopg.errors.CheckViolation:
                results.append("refused")

    threads = [threading.Thread(target=refund, args=(attempt,)) for attempt in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["in", "refused"]


def test_a_readers_locks_do_not_stop_the_sender(world):
    intended = charges(world, people(world, 2))
    reader = psycopg.connect(conninfo(world.server.url("operator")), options="-c search_path=makegood")
    for name in ("makegood.sending", "sending", "makegood.period.2023-09"):
        reader.execute("SELECT pg_advisory_lock(hashtext(%s))", (name,))
    for table in ("batch", "sender", "open_stop"):
        reader.execute(f"SELECT * FROM {table} LIMIT 1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT * FROM sender FOR SHARE")
    reader.rollback()
    with world.ledger.sending(world.run_id, NOTHING) as turn:
        world.ledger.hand_over(turn, recorded(world, turn, intended))
    reader.close()


def test_a_database_that_does_not_know_what_went_out_starts_stopped(world):
    for noted in (Noted(10**6, 0), Noted(0, 10**6)):
        with (
            pytest.raises(SendingStopped, match="behind the acquirer"),
            world.ledger.sending(f"{world.run_id} {noted}", noted),
        ):
            pass
        assert world.register.stopped_by() is not None
        for person in ("operator", "approver"):
            world.register.resume("a test", stops=(), login=person, password=None)


def test_whoever_waits_for_the_sender_is_told_to_try_again(world, monkeypatch):
    monkeypatch.setattr("pipeline.adapters.ledger.LOCK_WAIT", "200ms")
    with (
        world.ledger.sending(world.run_id, NOTHING),
        pytest.raises(RetriableError, match="try again when it has finished"),
    ):
        with world.ledger.sending(world.run_id, NOTHING):
            pass


def test_who_was_charged_after_the_plan_called_them_never_charged_is_not_rebilled(world):
    customers = people(world, 3)
    late = customers[2]
    late.plan = {
        "reversal": "none",
        "reversal_reason": "never_charged",
        "wrong_minor": None,
        "payment_id": None,
        "original_id": None,
    }
    world.charge(customers[:2])
    world.turn(ELEVENTH)
    world.approve(customers)
    charges(world, [late], wave=1, operation_id=late.original)
    world.plant_hand_over(world.run_id, 1)
    world.step("cancel", ELEVENTH)
    report = world.step("rebill", TWELFTH)
    assert (report["done"]["count"], report["left"]["charged_since"]["count"]) == (2, 1)
