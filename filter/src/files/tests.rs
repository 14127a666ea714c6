use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::class::Class;
use super::{Files, Limits, Patterns, kind};
use crate::content::{Content, Watch};

/// The smallest thing that Windows takes for a program's header.
pub(super) fn program() -> Vec<u8> {
    let mut octets = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff".to_vec();
    octets.resize(0x3c, 0);
    octets.extend_from_slice(&0x40_u32.to_le_bytes());
    octets.extend_from_slice(b"PE\0\0\x4c\x01\x01\0");
    octets.resize(512, 0x90);
    octets
}

pub(super) fn base64(octets: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in octets.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]);
            text.push(if at <= group.len() { letter } else { '=' });
        }
        if text.len() % 77 == 76 {
            text.push('\n');
        }
    }
    text
}

/// A message with one file.
pub(super) fn with_file(name: &str, octets: &[u8]) -> Content {
    let message = format!(
        "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nHello\n--b\nContent-Type: application/x\n\
         Content-Disposition: attachment; filename=\"{name}\"\nContent-Transfer-Encoding: base64\n\n{}\n--b--\n",
        base64(octets)
    );
    let watch = Watch::new(Duration::from_secs(60));
    Content::read(&Bytes::from(message), crate::content::Limits::default(), &watch)
}

pub(super) fn look(content: &Content, limits: Limits) -> Files {
    let banned = Patterns::new(["*.banned", "price?.*"]);
    Files::look(content, limits, &banned, &Watch::new(Duration::from_secs(60)))
}

pub(super) fn look_at(name: &str, octets: &[u8]) -> Files {
    look(&with_file(name, octets), Limits::default())
}

#[test]
fn a_program_is_one_whatever_it_is_called() {
    for name in ["a.exe", "report.pdf", "noname", "a.txt"] {
        let files = look_at(name, &program());
        let first = files.first("executable").unwrap();
        assert_eq!((first.kind, first.part.as_str(), first.path.as_str()), ("exe", "2", name));
        assert_eq!(first.to_string(), format!("executable (exe) {name} in part 2"));
    }
    assert!(look_at("report.pdf", b"%PDF-1.4\n1 0 obj").has("pdf"));
    assert_eq!(look_at("a.txt", b"MZ is how this text begins, and it goes on").found(), []);
}

#[test]
fn kinds_are_known_by_their_content() {
    let mut iso = vec![0; 0x8800];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    let mut disk = vec![0; 1024];
    disk[..3].copy_from_slice(b"\xeb\x3c\x90");
    disk[510..512].copy_from_slice(b"\x55\xaa");
    let compound = |inside: &[u8]| [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", &vec![0; 600][..], inside].concat();
    let wide = |name: &str| name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let cases: Vec<(&str, Vec<u8>, Class, &str)> = vec![
        ("a", b"\x7fELF\x02\x01\x01\0".to_vec(), Class::Executable, "elf"),
        ("a", b"\xcf\xfa\xed\xfe\x07\0\0\x01".to_vec(), Class::Executable, "mach-o"),
        ("a", b"\xca\xfe\xba\xbe\0\0\0\x02".to_vec(), Class::Executable, "mach-o"),
        ("a", b"\xca\xfe\xba\xbe\0\0\0\x34".to_vec(), Class::Java, "class"),
        ("a", b"MZ\0\0\0\0".to_vec(), Class::Executable, "dos"),
        ("a", b"\x4c\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46".to_vec(), Class::Shortcut, "lnk"),
        ("a", b"ITSF\x03\0\0\0".to_vec(), Class::Help, "chm"),
        ("a", iso, Class::DiskImage, "iso"),
        ("a", disk, Class::DiskImage, "img"),
        ("a", compound(&wide("_VBA_PROJECT")), Class::OfficeMacro, "office"),
        ("a", compound(&wide("EncryptedPackage")), Class::EncryptedArchive, "office"),
        ("a", compound(b"\x84\x10\x0c\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"), Class::Installer, "msi"),
        ("a", compound(&wide("WordDocument")), Class::Other, "compound"),
        ("a", b"Rar!\x1a\x07\x01\0".to_vec(), Class::UnopenedArchive, "rar"),
        ("a", b"\n@ECHO OFF\r\ndel *.*\r\n".to_vec(), Class::Script, "bat"),
        ("a", b"#!/bin/sh\n".to_vec(), Class::Script, "sh"),
        ("a", b"<html><HTA:APPLICATION id=x>".to_vec(), Class::Script, "hta"),
        ("a.js", b"var a = 1;".to_vec(), Class::Script, "js"),
        ("a.VBS. ", b"Dim a".to_vec(), Class::Script, "vbs"),
        ("a.ps1", b"Get-Item".to_vec(), Class::Script, "ps1"),
        ("a.com", b"\xb4\x09\xcd\x21\0".to_vec(), Class::Executable, "com"),
        ("a.scr", program(), Class::Executable, "exe"),
        ("a.url", b"[InternetShortcut]\nURL=http://a.test/".to_vec(), Class::Shortcut, "url"),
        ("price1.pdf", b"%PDF-1.4".to_vec(), Class::BannedName, "name"),
    ];
    for (name, octets, class, kind) in cases {
        let files = look_at(name, &octets);
        let seen = files.found().first().map(|found| (found.class, found.kind));
        assert_eq!(seen, Some((class, kind)), "{name} {:?}", &octets[..8.min(octets.len())]);
    }
    for (name, octets) in [
        ("mail from example.com", &b"Dear reader,\nplease see example.com"[..]),
        ("a.exe", b"this is a text, and Windows would say so"),
        ("a.docm", b"nothing of an office document"),
        ("", b""),
    ] {
        assert_eq!(look_at(name, octets).found(), [], "{name}");
    }
}

#[test]
fn the_text_of_a_message_is_no_file_but_a_program_in_its_place_is() {
    let content = |text: &str| {
        let watch = Watch::new(Duration::from_secs(60));
        Content::read(&Bytes::from(text.to_owned()), crate::content::Limits::default(), &watch)
    };
    assert_eq!(look(&content("Subject: patch\n\n#!/bin/sh\necho\n"), Limits::default()).found(), []);
    let text = format!("Content-Transfer-Encoding: base64\n\n{}\n", base64(&program()));
    assert!(look(&content(&text), Limits::default()).has("executable"));
}

#[test]
fn what_is_wrong_with_the_message_is_a_class() {
    let message = "Content-Type: application/x\nContent-Transfer-Encoding: base64\n\nTV!!qQ\n";
    let watch = Watch::new(Duration::from_secs(60));
    let content = Content::read(&Bytes::from(message), crate::content::Limits::default(), &watch);
    let files = look(&content, Limits::default());
    assert_eq!(files.unscannable().unwrap().class, Class::BrokenEncoding);
    assert!(files.classes().contains("broken-encoding"));
    assert!(Files::unseen("busy").unscannable().is_some());
}

#[test]
fn classes_have_names_of_their_own() {
    for class in Class::ALL {
        assert_eq!(Class::named(class.name()), Some(class));
    }
    assert_eq!(Class::named("exe"), None);
}

proptest! {
    #[test]
    fn whatever_a_file_holds_it_is_looked_at(
        start in prop::sample::select(vec![
            &b"PK\x03\x04"[..], b"PK\x05\x06", b"\x1f\x8b\x08\0", b"7z\xbc\xaf\x27\x1c\0\x04", b"MZ", b"",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\xca\xfe\xba\xbe",
        ]),
        octets in proptest::collection::vec(any::<u8>(), 0..2000),
        end in prop::sample::select(vec![&b""[..], b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\0\x01\0\0\0\0\0\0\0\0"]),
    ) {
        let octets = [start, &octets, end].concat();
        look_at("a.bin", &octets);
        kind::of(&octets, &[], true);
    }
}
