"""tlrec/cot/secrets.py: keys and passwords in every spelling.

1. Whole or in parts, escaped once or several times, with or without "Bearer": replaced, and what stands around it stays.
2. Data keeps words that a key happens to hold, and loses real keys.
3. Passwords and names of addresses.
"""

import base64
import html
import json
from urllib.parse import quote

import pytest

from tlrec.cot.secrets import Secrets, secrets_of_url

KEY = "sk-Proj/7\"9\\x+&Zq%21<T>'w_QR4=~"

SPELLINGS = {
    "as it is": KEY,
    "Bearer": f"Bearer {KEY}",
    "repr": repr(KEY),
    "repr of bytes": repr(f"Bearer {KEY}".encode()),
    "JSON": json.dumps(KEY),
    "JSON in JSON": json.dumps(json.dumps(KEY)),
    "JSON in JSON in JSON": json.dumps(json.dumps(json.dumps({"key": KEY}))),
    "JSON code points": "".join(f"\\u{ord(letter):04x}" for letter in KEY),
    "JSON code points, capitals": "".join(f"\\u{ord(letter):04X}" for letter in KEY),
    "Python code points": "".join(f"\\x{ord(letter):02x}" for letter in KEY),
    "JSON with \\/": json.dumps(KEY).replace("/", "\\/"),
    "URL": quote(KEY, safe=""),
    "URL, small letters": quote(KEY, safe="").lower(),
    "URL twice": quote(quote(KEY, safe=""), safe=""),
    "URL, all": "".join(f"%{ord(letter):02X}" for letter in KEY),
    "HTML": html.escape(KEY),
    "HTML twice": html.escape(html.escape(KEY)),
    "HTML numbers": "".join(f"&#{ord(letter)};" for letter in KEY),
    "HTML hexadecimal": "".join(f"&#x{ord(letter):x};" for letter in KEY),
    "small letters": KEY.lower(),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "first half": KEY[:16],
    "last half": KEY[16:],
    "middle": KEY[9:18],
    "masked": f"{KEY[:12]}****{KEY[-9:]}",
    "both halves": f"{KEY[:15]} and {KEY[15:]}",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_spellings(spelling):
    secrets = Secrets([KEY])
    for hide in (secrets.hide, secrets.hide_in_data):
        for before, after in (("Incorrect key: ", ". You can\n find ä \\n it 100% & more"), ("", ""), ("\\", "")):
            hidden = hide(before + spelling + after)
            assert "***" in hidden and hidden.startswith(before[:-1]) and hidden.endswith(after)
            for undo in (str, quote, lambda text: text.replace("\\", "")):
                assert not any(undo(KEY[at : at + 8]).lower() in hidden.lower() for at in range(len(KEY) - 7))
            assert len(hidden) < len(before + after) + 40


@pytest.mark.parametrize(
    "text", ["", "plain", 'quotes "in" it', "50% \\u00e9 &amp; %41 \\\\", "ÄİŐ\u2028\ud800 \\ \\", "%", "\\u00"]
)
def test_other_text_stays(text):
    secrets = Secrets([KEY, ""])
    assert secrets.hide(text) == secrets.hide_in_data(text) == text


def test_short_keys_and_words():
    secrets = Secrets(["none", "sk-no-key-required"])
    assert secrets.hide("key none is wrong, required: sk-no-key-required") == "key *** is wrong, ***: ***"
    data = "None of them is required, and none-such is 'key required'"
    assert secrets.hide_in_data(data) == data
    assert secrets.hide_in_data("it is sk-no-key-required") == "it is ***"


def test_random_letters_are_no_word():
    key = "abcdefghijklmnopqrstuvwx"
    assert Secrets([key]).hide_in_data(f"my key: {key}, {key[3:20]}") == "my key: ***, ***"


def test_json_stays_json():
    body = json.dumps({"content": f"the key {KEY}", "more": [KEY, "x"]})
    assert json.loads(Secrets([KEY]).hide_in_data(body)) == {"content": "the key ***", "more": ["***", "x"]}


def test_addresses():
    hidden = Secrets(secrets_of_url("http://me:p%40ss-w0rd@host/v1?api-key=0123456789")).hide
    basic = base64.b64encode(b"me:p@ss-w0rd").decode()
    assert hidden(f"p@ss-w0rd, p%40ss-w0rd, Basic {basic}, 0123456789, me") == "***, ***, Basic ***, ***, me"
    assert Secrets(secrets_of_url("http://tok-12345678@host/v1")).hide("tok-12345678") == "***"
    assert set(secrets_of_url("http://host/v1")) == {""} and secrets_of_url("http://[bad") == []
