"""What customers are told: once each, only what is so, and their contacts are nowhere but in the message."""

import json
import stat
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.contact_vault import ContactVault
from pipeline.adapters.messages import CONTACTS, LocalSink, Outbox, templates
from pipeline.adapters.timeline import facts_about
from pipeline.core.idempotency import merchant_reference, operation_id
from pipeline.errors import OutsideWindow, UnreadableInput
from pipeline.lookup import timeline, to_text
from pipeline.notify import notify, require_waking_hours
from pipeline.ports import no_progress
from tests.remediation_world import ELEVENTH, PERIOD, TWELFTH, Customer, charged_and_approved, people

PHONE, EMAIL = "010-9999-7777", "planted.canary@example.com"


class Sent:
    """Notices of a world, and what reached the sink."""

    def __init__(self, world, contacts: list[dict]) -> None:
        self.world = world
        self.sink = LocalSink(world.settings.home / "outbox", ContactVault(world.settings.home / "keys"))
        self.contacts = world.settings.home / CONTACTS
        schema = pa.schema([(name, pa.string()) for name in ("customer_id", "phone", "email", "language")])
        pq.write_table(pa.Table.from_pylist(contacts, schema), self.contacts)

    def notify(self, sink=None, **options):
        plans = [self.world.incidents.require_approved(self.world.incident, self.world.now).lines]
        outbox = Outbox(self.world.server, self.world.incident, plans=plans, contacts=self.contacts)
        try:
            return notify(outbox, sink or self.sink, progress=no_progress, **options)
        finally:
            outbox.close()

    def messages(self) -> list[dict]:
        batches = [self.sink.open(self.world.incident, batch) for batch in self.sink.batches(self.world.incident)]
        return [json.loads(line) for content in batches for line in content.splitlines()]

    def texts(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for message in self.messages():
            found.setdefault(message["customer_id"], []).append(message["text"])
        return found


def contact(customer: Customer, language: str = "ko", **columns) -> dict:
    return {"customer_id": customer.customer_id, "phone": PHONE, "email": EMAIL, "language": language} | columns


def test_each_customer_is_told_once_per_step_in_their_language(world):
    (korean,), (english,) = people(world, 1), people(world, 1, method="check_card")
    charged_and_approved(world, [korean, english])
    sent = Sent(world, [contact(korean), contact(english, "en", phone=None)])
    world.step("cancel", ELEVENTH)
    assert sent.notify()["sent"] == {"void": 1}
    world.step("refund", ELEVENTH)
    world.step("rebill", TWELFTH)
    assert sent.notify()["sent"] == {"rebill": 2, "refund": 1, "void": 1}
    assert sent.notify()["now"] == {}
    assert sent.texts()[korean.customer_id] == [
        "[요금 안내] 올바른 요금 41,000원이 9월 12일에 결제되었습니다. 잘못 청구되었던 금액은 그 전에 취소 또는 환불되었습니다.",
        "[요금 안내] 잘못 청구된 52,300원의 카드 승인이 취소되었습니다. 이 금액은 출금되지 않으며 고객님께서 하실 일은 없습니다."
        " 불편을 드려 죄송합니다.",
    ]
    assert sent.texts()[english.customer_id] == [
        "[Billing] The right amount of KRW 41,000 was charged on 12 September 2023. The wrong charge was cancelled or refunded before.",
        "[Billing] The wrong charge of KRW 52,300 was refunded. You have it back by 12 September 2023. You need not do anything."
        " We apologise.",
    ]
    by = {message["customer_id"]: (message["channel"], message["to"]) for message in sent.messages()}
    assert by == {korean.customer_id: ("lms", PHONE), english.customer_id: ("email", EMAIL)}


def test_nothing_is_said_that_is_not_so(world):
    late, disputed, poor, zero = (
        people(world, 1) + people(world, 1, method="check_card") + people(world, 1) + people(world, 1, right=0)
    )
    charged_and_approved(world, [late, disputed, poor, zero])
    sent = Sent(world, [contact(c, "en") for c in (late, disputed, poor, zero)])
    world.happens("dispute", disputed)
    world.step("cancel", ELEVENTH)
    world.step("refund", ELEVENTH)
    card = {"payment_method": ["credit_card"], "issuer": ["HANBIT"]}
    world.rail.introduce(
        pa.table({"instrument_token": [poor.token], "limit_minor": pa.array([100], pa.int64())} | card)
    )
    world.rule = type(world.rule)(declined_share_max=1.0)
    world.step("rebill", TWELFTH)
    sent.notify()
    texts = sent.texts()
    assert disputed.customer_id not in texts, "nothing has happened that could be told"
    assert any("no late fee" in text and "before 15 September 2023" in text for text in texts[poor.customer_id])
    assert [text for text in texts[zero.customer_id] if "Nothing more is charged" in text] == texts[zero.customer_id]
    assert not [text for text in texts[late.customer_id] if "Nothing more is charged" in text]


def test_a_customer_whose_whole_charge_support_gave_back_hears_once_that_nothing_more_leaves(world):
    whole, zero, part = customers = [*people(world, 1, method="check_card"), *people(world, 1, method="check_card", right=0),
                                     *people(world, 1, method="check_card")]  # fmt: skip
    charged_and_approved(world, customers)
    sent = Sent(world, [contact(c, "en") for c in customers])
    for customer in (whole, zero):
        world.happens("support_refund", customer)
    world.happens("support_refund", part, amount_minor=300)
    assert sent.notify()["sent"] == {}, "nobody has asked the acquirer yet, so nothing is certain"
    world.step("refund", ELEVENTH)
    assert sent.notify()["sent"] == {"refund": 1, "returned": 2}
    assert sent.notify()["now"] == {}
    told = (
        "[Billing] The wrong charge of KRW 52,300 has been returned to you already. Nothing more leaves your account for it, and you"
        " need not do anything. We apologise."
    )
    texts = sent.texts()
    assert texts[whole.customer_id] == [told]
    assert texts[zero.customer_id] == [f"{told} Nothing more is charged for this month."]
    assert "52,000 was refunded" in texts[part.customer_id][0]
    story = to_text(timeline(whole.customer_id, facts_about(world.server, whole.customer_id)))
    assert "told the customer by lms (returned)" in story


def test_a_customer_with_two_charges_hears_once_when_both_are_certain(world):
    (first,) = people(world, 1, method="check_card")
    second = Customer(first.customer_id, method="check_card", occurrence=2)
    charged_and_approved(world, [first, second])
    sent = Sent(world, [contact(first)])
    world.rule = type(world.rule)(unknown_share_max=1.0)
    world.rail.adjust(timeout_after_accept=1)
    inquire = world.rail.inquire
    known = merchant_reference(
        operation_id(kind="refund", incident_id=world.incident, billing_period=PERIOD, bill_cycle=1, occurrence=1, attempt=1,
                     customer_id=first.customer_id)
    )  # fmt: skip
    world.rail.inquire = lambda references: (found := inquire(references)).filter(
        pc.equal(found["merchant_reference"], known)
    )
    world.step("refund", ELEVENTH)
    world.step("refund", ELEVENTH)
    assert sent.notify()["left"] == {"refund": {"not_final_yet": 1}}
    world.rail.inquire = inquire
    world.step("refund", ELEVENTH)
    sent.notify()
    assert [("104,600원" in text) for text in sent.texts()[first.customer_id]] == [True]


def test_a_crash_between_delivery_and_receipt_tells_nobody_twice(world):
    customers = people(world, 5)
    charged_and_approved(world, customers)
    sent = Sent(world, [contact(c) for c in customers])
    world.step("cancel", ELEVENTH)

    class Dying(LocalSink):
        def deliver(self, incident_id, batch, messages):
            super().deliver(incident_id, batch, messages)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sent.notify(sink=Dying(sent.sink.folder, sent.sink.vault))
    assert world.rows("SELECT FROM notice WHERE incident_id = %s", world.incident) == []
    result = sent.notify()
    assert (result["sent"], result["now"]) == ({"void": 5}, {})
    assert len(sent.messages()) == 5


def test_customers_without_a_contact_are_counted_and_heard_once_they_have_one(world):
    customers = people(world, 3)
    charged_and_approved(world, customers)
    sent = Sent(world, [contact(customers[0]), contact(customers[1], phone="", email="")])
    world.step("cancel", ELEVENTH)
    result = sent.notify()
    assert (result["sent"], result["left"]) == ({"void": 1}, {"void": {"without_contact": 2}})
    assert Sent(world, [contact(c) for c in customers]).notify()["sent"] == {"void": 3}


def test_a_contact_is_nowhere_but_in_the_message(world, caplog, capfd):
    customers = people(world, 3)
    charged_and_approved(world, customers)
    sent = Sent(world, [contact(c) for c in customers])
    world.step("cancel", ELEVENTH)
    sent.notify()
    pq.write_table(pa.table({"customer_id": [customers[0].customer_id], "phone": [PHONE]}), sent.contacts)
    with pytest.raises(UnreadableInput) as refused:
        sent.notify()
    said = f"{refused.value!r} {refused.value.__cause__} {caplog.text} {''.join(capfd.readouterr())}"
    assert PHONE not in said
    with world.server.connect() as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'makegood'").fetchall()
        kept = " ".join(str(connection.execute(f'SELECT * FROM "{name}"').fetchall()) for (name,) in tables)
    assert customers[0].customer_id in kept, "the search saw the rows"
    assert PHONE not in kept
    assert EMAIL not in kept
    outbox = sent.sink.folder / world.incident
    assert PHONE in {message["to"] for message in sent.messages()}
    for path in world.settings.home.rglob("*"):
        if path.is_file() and path != sent.contacts:
            assert PHONE.encode() not in path.read_bytes(), path
    assert {stat.S_IMODE(path.stat().st_mode) for path in outbox.iterdir()} == {0o600}


def test_nobody_is_woken(world):
    zone = world.settings.timezone
    evening = datetime(2023, 9, 11, 21, tzinfo=zone)
    with pytest.raises(OutsideWindow, match="--now"):
        require_waking_hours(evening.astimezone(UTC), zone)
    with pytest.raises(OutsideWindow):
        require_waking_hours(datetime(2023, 9, 12, 7, 59, tzinfo=zone), zone)
    require_waking_hours(datetime(2023, 9, 12, 8, tzinfo=zone), zone)
    require_waking_hours(evening - timedelta(minutes=1), zone)


def test_a_length_is_what_a_korean_network_counts(world):
    customers = people(world, 1)
    charged_and_approved(world, customers)
    sent = Sent(world, [contact(customers[0])])
    world.step("cancel", ELEVENTH)
    sent.notify()
    (message,) = sent.messages()
    assert message["bytes"] == len(message["text"].encode("euc-kr")) > 90
    assert message["channel"] == "lms"


def test_every_template_exists_in_every_language():
    by_language = {}
    for row in templates().to_pylist():
        by_language.setdefault(row["language"], set()).add(row["variant"])
    assert by_language["ko"] == by_language["en"]
