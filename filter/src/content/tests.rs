use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Content, Limits, Trouble, Watch};

const MESSAGE: &str = "Received: from a\n by b\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\n und mehr\nFrom: \"A. B.\" <a@b.test>, c@d.test
Message-ID:\n <1@b.test>\nX-PHP-Originating-Script: 33:mail.php\nMime-Version: 1.0
Content-Type: multipart/mixed;\n boundary=\"out er\"\n\nThis is the preamble.\n--out er
Content-Type: multipart/alternative; boundary=inner\n\n--inner\n\nplain\n--inner
Content-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n<b>caf=E9</b>\n--inner--\n\n--out er
Content-Type: message/rfc822\n\nSubject: within\nContent-Type: application/pdf; name=\"a.pdf\"
Content-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"b.pdf\"\n\nJVBERi0=\n--out er--\nepilogue\n";

fn read(message: &[u8], limits: Limits) -> Content {
    Content::read(&Bytes::copy_from_slice(message), limits, &Watch::new(Duration::from_secs(60)))
}

#[test]
fn headers_are_decoded_and_raw() {
    for message in [MESSAGE.to_owned(), MESSAGE.replace('\n', "\r\n")] {
        let content = read(message.as_bytes(), Limits::default());
        let headers = content.headers();
        assert_eq!(headers.subject().unwrap(), "Grüße und mehr");
        assert!(headers.raw("subject").next().unwrap().starts_with(b"=?utf-8?Q?"));
        let from = headers.from().unwrap();
        assert_eq!((from.name.as_deref(), from.address.as_deref()), (Some("A. B."), Some("a@b.test")));
        assert_eq!(headers.message_id().unwrap(), "1@b.test");
        assert_eq!(headers.php_script().unwrap(), "33:mail.php");
        assert_eq!(headers.get("RECEIVED").unwrap(), "from a by b");
        assert_eq!(headers.get("X-None"), None);
        assert_eq!(headers.names().count(), 7);
    }
}

#[test]
fn parts_are_found_and_decoded() {
    for message in [MESSAGE.to_owned(), MESSAGE.replace('\n', "\r\n")] {
        let content = read(message.as_bytes(), Limits::default());
        let seen: Vec<_> = content
            .parts()
            .iter()
            .map(|part| (part.path.as_str(), part.media.as_str(), part.name(), part.text(100).into_owned()))
            .collect();
        assert_eq!(
            seen,
            [
                ("1.1", "text/plain", None, "plain".to_owned()),
                ("1.2", "text/html", None, "<b>café</b>".to_owned()),
                ("2.1", "application/pdf", Some("b.pdf"), "%PDF-".to_owned()),
            ]
        );
        assert_eq!(content.parts()[2].names, ["b.pdf", "a.pdf"]);
        assert!(content.parts()[2].attachment);
        assert!(content.troubles().is_empty(), "{:?}", content.troubles());
    }
}

#[test]
fn a_message_without_mime_is_one_text() {
    let content = read(b"Subject: x\r\n\r\nHello\r\n", Limits::default());
    assert_eq!(content.parts().len(), 1);
    assert_eq!((content.parts()[0].path.as_str(), content.parts()[0].media.as_str()), ("1", "text/plain"));
    assert!(content.parts()[0].is_body());
    let content = read(b"", Limits::default());
    assert_eq!((content.parts().len(), content.octets()), (1, 0));
}

#[test]
fn limits_are_kept_and_said() {
    let limits = Limits { octets: 100, ..Limits::default() };
    let content = read(MESSAGE.as_bytes(), limits);
    assert!(content.has(Trouble::TooBig));
    assert!(content.octets() <= 200);
    let content = read(MESSAGE.as_bytes(), Limits { parts: 3, ..Limits::default() });
    assert!(content.has(Trouble::TooManyParts));
    let over = Watch::new(Duration::ZERO);
    let content = Content::read(&Bytes::from_static(MESSAGE.as_bytes()), Limits::default(), &over);
    assert!(content.has(Trouble::OutOfTime));
}

/// Lines that messages are made of, in any order.
fn scrap() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "Content-Type: multipart/mixed; boundary=b\n",
        "Content-Type: multipart/digest; boundary=\n b\n",
        "Content-Type: message/rfc822\n",
        "Content-Type: text/plain; charset=utf-7\n",
        "Content-Transfer-Encoding: base64\n",
        "Content-Transfer-Encoding: quoted-printable\n",
        "Content-Transfer-Encoding: x-uuencode\n",
        "Content-Disposition: attachment; filename*0*=utf-8''%41%; filename=\"=?utf-8?B?!!?=\"\n",
        "Subject: =?utf-8?Q?=C3\n",
        "\n",
        "\r\n",
        "--b\n",
        "--b--\n",
        "begin 644 x.exe\n",
        "#35J0\n",
        "end\n",
        "TVqQ=!",
        "=3D=\n",
        " folded\n",
    ]);
    let noise = proptest::collection::vec(any::<u8>(), 0..20);
    prop_oneof![4 => words.prop_map(|word| word.as_bytes().to_vec()), 1 => noise]
}

proptest! {
    #[test]
    fn whatever_comes_it_is_read_within_its_limits(scraps in proptest::collection::vec(scrap(), 0..60)) {
        let message = scraps.concat();
        let limits = Limits { octets: 600, parts: 8, depth: 3 };
        let content = read(&message, limits);
        prop_assert!(content.parts().len() <= limits.parts);
        for part in content.parts() {
            prop_assert!(part.path.split('.').count() <= limits.depth + 2, "{}", part.path);
            prop_assert!(part.names.len() <= 8);
            part.text(1000);
        }
        content.headers().subject();
        content.headers().from();
        content.headers().message_id();
        if message.len() > limits.octets {
            prop_assert!(content.has(Trouble::TooBig));
        }
    }
}
