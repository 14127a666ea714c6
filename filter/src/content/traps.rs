//! The ways in which mail-parser alone would let a file through: a folded name, one wrong octet in base64, parts without
//! number. And others of their kind.

use std::time::Duration;

use bytes::Bytes;

use super::{Content, Limits, Trouble, Watch};

fn read(message: &str) -> Content {
    let message = Bytes::from(message.replace('\n', "\r\n"));
    Content::read(&message, Limits::default(), &Watch::new(Duration::from_secs(10)))
}

#[test]
fn mail_parser_alone_still_has_these_traps() {
    let folded = "Content-Type: application/x\r\nContent-Disposition: attachment;\r\n filename=\r\n a.exe\r\n\r\nMZ\r\n";
    let message = mail_parser::MessageParser::default().parse(folded).unwrap();
    use mail_parser::MimeHeaders;
    assert_eq!(message.parts[0].attachment_name(), None, "then the field need not be unfolded here");
    let wrong = "Content-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\nTV!!qQAAMAAAAE\r\n";
    let message = mail_parser::MessageParser::default().parse(wrong).unwrap();
    assert!(!message.parts[0].contents().starts_with(b"MZ"), "then base64 need not be read here");
}

#[test]
fn a_folded_name_is_a_name() {
    for fields in [
        "Content-Disposition: attachment; filename=a.exe",
        "Content-Disposition: attachment;\n filename=\n a.exe",
        "Content-Disposition: attachment;\n filename\n =\"a.exe\"",
        "Content-Disposition: attachment;\n filename*0=a.;\n filename*1=exe",
        "Content-Disposition: attachment;\n filename*=utf-8''a%2Eexe",
        "Content-Disposition: attachment; filename==?utf-8?Q?a=2Eexe?=",
        "Content-Disposition: attachment;\n\tfilename=\"=?utf-8?B?YS5leGU=?=\"",
        "Content-Type: application/x;\n name=\n a.exe",
    ] {
        let content = read(&format!("{fields}\n\nMZ\n"));
        assert_eq!(content.parts()[0].names, ["a.exe"], "{fields}");
    }
}

#[test]
fn base64_with_a_wrong_octet_is_decoded_and_said_to_be_broken() {
    let head = "Content-Type: application/x; name=a.pdf\nContent-Transfer-Encoding: base64\n\n";
    let content = read(&format!("{head}TV!!qQAAMAAAAE\n"));
    assert!(content.parts()[0].data.starts_with(b"MZ\x90\x00"));
    assert!(content.has(Trouble::BrokenEncoding));
    let content = read(&format!("{head}TVqQAAMAAAAE\n"));
    assert!(content.parts()[0].data.starts_with(b"MZ\x90\x00"));
    assert!(content.troubles().is_empty());
}

#[test]
fn parts_without_number_are_not_read_to_the_end() {
    let many = "--b\n\nx\n".repeat(100_000);
    let content = read(&format!("Content-Type: multipart/mixed; boundary=b\n\n{many}--b--\n"));
    assert!(content.has(Trouble::TooManyParts));
    assert_eq!(content.parts().len(), Limits::default().parts - 1);
    let deep: String =
        (0..200).map(|at| format!("Content-Type: multipart/mixed; boundary=b{at}\n\n--b{at}\n")).collect();
    let content = read(&deep);
    assert_eq!(content.troubles()[0].trouble, Trouble::TooDeep);
    let nested = "Content-Type: message/rfc822\n\n".repeat(200);
    assert!(read(&nested).has(Trouble::TooDeep));
}

#[test]
fn readers_that_would_differ_are_said_to() {
    for (message, broken) in [
        ("Content-Type: multipart/mixed\n\n--b\n\nx\n--b--\n", true),
        ("Content-Type: multipart/mixed; boundary=b\n\n--c\n\nx\n", true),
        ("Content-Type: multipart/mixed; boundary=b\n\n", false),
        ("Content-Type: text/plain\nContent-Type: application/x\n\nx\n", true),
        ("Content-Type: text/plain\ncontent-type: Text/Plain\n\nx\n", false),
        ("Content-Type: application/x\nContent-Transfer-Encoding: base65\n\nx\n", true),
        ("Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n1=2\n", false),
        ("Content-Type: application/x\nContent-Transfer-Encoding: quoted-printable\n\n1=2\n", true),
    ] {
        assert_eq!(read(message).has(Trouble::BrokenEncoding), broken, "{message}");
    }
}

#[test]
fn a_file_in_text_is_a_part_of_its_own() {
    let content = read("Subject: x\n\nHello\n\nbegin 644 a.exe\n#35J0\n`\nend\n");
    let paths: Vec<_> = content.parts().iter().map(|part| part.path.as_str()).collect();
    assert_eq!(paths, ["1", "1.uu1"]);
    assert_eq!((content.parts()[1].name(), &content.parts()[1].data[..]), (Some("a.exe"), &b"MZ\x90"[..]));
}
