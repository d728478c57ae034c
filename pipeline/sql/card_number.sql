-- What a card number is, said once: whoever asks - reading a source, the gate, a release, an incident, an import - asks this.
--
-- The digits, blanks and hyphens aside, have a length that the network they begin with issues, and a right check digit. Ids that are
-- not cards stay what they are: subscriber and device numbers have 15 digits and do not begin as American Express does, and the
-- acquirers' numeric references begin with 1, 7 or 8, or fail one of the tests.

CREATE OR REPLACE TEMP MACRO card_digits(text) AS regexp_replace(text, '[ -]', '', 'g');

CREATE OR REPLACE TEMP MACRO begins_as_card(digits) AS regexp_full_match(digits,
    '4([0-9]{12}|[0-9]{15}|[0-9]{18})'                                                                 -- Visa
    || '|(5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}'              -- Mastercard
    || '|3[47][0-9]{13}'                                                                               -- American Express
    || '|3(0[0-5]|[689][0-9])[0-9]{11}|3(0[0-5]|[689][0-9])[0-9]{13,16}'                               -- Diners Club
    || '|35(2[89]|[3-8][0-9])[0-9]{12,15}'                                                             -- JCB
    || '|(50|5[6-8]|6[0-9])[0-9]{14,17}'                                                               -- Maestro, Discover, UnionPay
    || '|9[0-9]{15}');                                                                                 -- cards of one country alone

-- From the right, every second digit counts double, and of a product of two digits these are added (Luhn).
CREATE OR REPLACE TEMP MACRO passes_luhn(digits) AS list_sum(list_transform(
    list_reverse(string_split(digits, '')),
    lambda digit, place: CASE WHEN place % 2 = 1 THEN CAST(digit AS INTEGER) WHEN digit > '4' THEN 2 * CAST(digit AS INTEGER) - 9
                              ELSE 2 * CAST(digit AS INTEGER) END)) % 10 = 0;

-- Few texts get as far as the closer look.
CREATE OR REPLACE TEMP MACRO is_card_number(text) AS
    CASE WHEN regexp_full_match(text, '[0-9 -]{13,}') AND begins_as_card(card_digits(text))
         THEN passes_luhn(card_digits(text)) ELSE FALSE END;
