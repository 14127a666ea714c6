//! Archives as others make them: with the crates zip, tar, flate2 and sevenz-rust2.

use std::io::{Cursor, Write};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sevenz_rust2::{ArchiveEntry, ArchiveWriter};
use zip::ZipWriter;
use zip::unstable::write::FileOptionsExt;
use zip::write::SimpleFileOptions;

use super::tests::{look, look_at, program, with_file};
use super::{Class, Files, Limits, Patterns};
use crate::content::Watch;

type Members<'m> = &'m [(&'m str, &'m [u8])];

fn zip_with(options: SimpleFileOptions, members: Members<'_>) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, octets) in members {
        writer.start_file(*name, options).unwrap();
        writer.write_all(octets).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn zip(members: Members<'_>) -> Vec<u8> {
    zip_with(SimpleFileOptions::default(), members)
}

fn tar(members: Members<'_>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, octets) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(octets.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *octets).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

fn sevenz_from(mut writer: ArchiveWriter<Cursor<Vec<u8>>>, members: Members<'_>) -> Vec<u8> {
    for (name, octets) in members {
        writer.push_archive_entry(ArchiveEntry::new_file(name), Some(*octets)).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn sevenz(members: Members<'_>) -> Vec<u8> {
    sevenz_from(ArchiveWriter::new(Cursor::new(Vec::new())).unwrap(), members)
}

fn depth(depth: usize) -> Limits {
    Limits { depth, ..Limits::default() }
}

fn paths<'f>(files: &'f Files, class: &str) -> Vec<&'f str> {
    files
        .found()
        .iter()
        .filter(|found| found.class.name() == class)
        .map(|found| found.path.as_str())
        .collect()
}

#[test]
fn a_program_is_found_in_every_archive() {
    let program = program();
    let members: Members<'_> = &[("read.me", b"text"), ("dir/setup.dat", &program)];
    for (name, octets, path) in [
        ("a.zip", zip(members), "a.zip/dir/setup.dat"),
        ("a.tar", tar(members), "a.tar/dir/setup.dat"),
        ("a.tar.gz", gzip(&tar(members)), "a.tar.gz/a.tar/dir/setup.dat"),
        ("a.tgz", gzip(&tar(members)), "a.tgz/a.tar/dir/setup.dat"),
        ("a.gz", gzip(&program), "a.gz/a"),
        ("a.7z", sevenz(members), "a.7z/dir/setup.dat"),
        ("report.pdf", zip(members), "report.pdf/dir/setup.dat"),
        ("b.zip", zip(&[("a.7z", &sevenz(members))]), "b.zip/a.7z/dir/setup.dat"),
        ("b.tgz", gzip(&tar(&[("a.zip", &zip(members))])), "b.tgz/b.tar/a.zip/dir/setup.dat"),
    ] {
        let files = look_at(name, &octets);
        assert_eq!(paths(&files, "executable"), [path], "{:?}", files.found());
        assert!(files.unscannable().is_none(), "{:?}", files.found());
    }
}

#[test]
fn depth_is_what_the_operator_says() {
    let inner = zip(&[("a.exe", &program())]);
    let two = zip(&[("one.zip", &inner)]);
    let three = zip(&[("two.zip", &two)]);
    for (levels, octets, seen, limited) in [
        (0, &inner, false, false),
        (0, &three, false, false),
        (1, &inner, true, false),
        (1, &two, false, true),
        (2, &two, true, false),
        (2, &three, false, true),
        (3, &three, true, false),
    ] {
        let files = look(&with_file("x.zip", octets), depth(levels));
        assert_eq!((files.has("executable"), files.has("archive-limit")), (seen, limited), "{levels}");
    }
    assert!(look(&with_file("a.pdf", &program()), depth(0)).has("executable"));
}

#[test]
fn encrypted_archives_are_a_class_and_their_names_are_seen() {
    let options = SimpleFileOptions::default().with_deprecated_encryption(b"secret").unwrap();
    let files = look_at("a.zip", &zip_with(options, &[("setup.exe", &program()), ("a.banned", b"x")]));
    assert_eq!(files.unscannable().unwrap().class, Class::EncryptedArchive);
    assert_eq!(paths(&files, "executable"), ["a.zip/setup.exe"]);
    assert_eq!(paths(&files, "banned-name"), ["a.zip/a.banned"]);

    for header in [false, true] {
        let mut writer = ArchiveWriter::new(Cursor::new(Vec::new())).unwrap();
        let aes = sevenz_rust2::encoder_options::AesEncoderOptions::new("secret".into());
        writer.set_content_methods(vec![aes.into(), sevenz_rust2::EncoderMethod::LZMA2.into()]);
        writer.set_encrypt_header(header);
        let files = look_at("a.7z", &sevenz_from(writer, &[("setup.exe", &program())]));
        assert_eq!(files.unscannable().unwrap().class, Class::EncryptedArchive, "{:?}", files.found());
        assert_eq!(files.has("executable"), !header, "{:?}", files.found());
    }
}

#[test]
fn truncated_archives_are_a_class_and_what_is_left_is_seen() {
    let noise: Vec<u8> =
        (0..40_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let program = [program(), noise.clone()].concat();
    let members: Members<'_> = &[("a.bin", &program), ("b.bin", &noise)];
    for (name, octets, seen) in [
        ("a.zip", zip(members), true),
        ("a.tar", tar(members), true),
        ("a.tar.gz", gzip(&tar(members)), true),
        ("a.gz", gzip(&program), true),
        ("a.7z", sevenz(members), false),
    ] {
        for keep in [octets.len() * 2 / 5, octets.len() - 40] {
            let files = look_at(name, &octets[..keep]);
            if name != "a.tar" || keep < octets.len() - 1024 {
                assert!(files.has("broken-archive"), "{name} {keep} {:?}", files.found());
            }
            assert_eq!(files.has("executable"), seen, "{name} {keep} {:?}", files.found());
        }
    }
}

/// A zip of zips of zips ... of zeros.
fn bomb(levels: usize, across: usize, zeros: usize) -> Vec<u8> {
    let mut octets = zip(&[("0.dll", &vec![0; zeros])]);
    for _ in 0..levels {
        let names: Vec<String> = (0..across).map(|at| format!("lib {at:x}.zip")).collect();
        let members: Vec<(&str, &[u8])> =
            names.iter().map(|name| (name.as_str(), octets.as_slice())).collect();
        octets = zip(&members);
    }
    octets
}

#[test]
fn bombs_are_a_class_and_cost_little() {
    let nested = bomb(4, 16, 1024 * 1024);
    let flat = zip(&[("0.dll", &vec![0; 64 * 1024 * 1024])]);
    let packed = gzip(&tar(&[("zeros", &vec![0; 64 * 1024 * 1024])]));
    let solid = sevenz(&[("0.bin", &vec![0; 110 * 1024 * 1024]), ("a.exe", &program())]);
    for (name, octets, why) in [
        ("42.zip", nested, "depth"),
        ("flat.zip", flat, "ratio"),
        ("a.tar.gz", packed, "ratio"),
        ("a.7z", solid, "size"),
    ] {
        let content = with_file(name, &octets);
        let begun = Instant::now();
        let files = look(&content, Limits::default());
        let spent = begun.elapsed();
        let limit = files.first("archive-limit").map(|found| found.kind);
        assert_eq!(limit, Some(why), "{name} {:?}", files.found());
        assert!(spent < Duration::from_secs(8), "{name} took {spent:?}");
    }
}

#[test]
fn members_are_counted_in_all_archives_together() {
    let names: Vec<String> = (0..1200).map(|at| format!("{at}.txt")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    for (name, octets) in [("a.zip", zip(&members)), ("a.tar", tar(&members)), ("a.7z", sevenz(&members))] {
        let files = look_at(name, &octets);
        assert!(files.has("archive-limit"), "{name} {:?}", files.found());
        assert!(!look_at(name, &octets[..]).has("broken-archive"), "{name}");
    }
}

#[test]
fn a_7z_whose_header_unpacks_to_too_much_is_not_unpacked() {
    let long = "n".repeat(4000);
    let names: Vec<String> = (0..100).map(|at| format!("{at}{long}")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let octets = sevenz(&members);
    assert!(octets.len() < 60_000, "the header is packed: {}", octets.len());
    let files = look_at("a.7z", &octets);
    let limit = files.first("archive-limit").unwrap();
    assert_eq!(limit.kind, "header");
}

#[test]
fn office_documents_java_and_apk_are_told_from_other_zips() {
    for (members, class) in [
        (&[("[Content_Types].xml", &b"<x/>"[..]), ("word/document.xml", b"<x/>")][..], "other"),
        (&[("[Content_Types].xml", &b"<x/>"[..]), ("xl/vbaProject.bin", b"x")][..], "office-macro"),
        (
            &[("META-INF/MANIFEST.MF", &b"Main-Class: A"[..]), ("A.class", b"\xca\xfe\xba\xbe\0\0\0\x34")][..],
            "java",
        ),
        (&[("META-INF/MANIFEST.MF", &b"x"[..]), ("AndroidManifest.xml", b"x")][..], "installer"),
    ] {
        let files = look_at("a.zip", &zip(members));
        assert!(files.has(class), "{class} {:?}", files.found());
        assert!(files.unscannable().is_none(), "{:?}", files.found());
    }
}

#[test]
fn zips_behind_something_else_and_behind_each_other_are_seen() {
    let inner = zip(&[("a.exe", &program())]);
    let picture = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 500], &inner].concat();
    assert!(look_at("a.png", &picture).has("executable"));
    let behind = [inner, zip(&[("read.me", b"text")])].concat();
    let files = look_at("a.zip", &behind);
    assert!(files.has("executable") && files.has("broken-archive"), "{:?}", files.found());
}

#[test]
fn time_ends_the_look_and_says_so() {
    let content = with_file("a.zip", &zip(&[("a.exe", &program())]));
    let files = Files::look(&content, Limits::default(), &Patterns::default(), &Watch::new(Duration::ZERO));
    assert_eq!(files.unscannable().unwrap().class, Class::OutOfTime);
}

/// Damaged in the properties of its LZMA2: the library goes round for ever if it is asked again.
#[test]
fn a_7z_that_fails_is_not_asked_again() {
    let mut octets = sevenz(&[("a.exe", &program()), ("b.zip", &zip(&[("c.txt", b"c")]))]);
    // The first octets of what is packed: 0xe0, two sizes of two octets, and the properties.
    assert_eq!(octets[32], 0xe0);
    octets[37] = 0xff;
    let files = look_at("a.bin", &octets);
    assert!(files.has("broken-archive"), "{:?}", files.found());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn damaged_archives_are_looked_at_without_end_or_panic(
        which in 0_usize..4,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let program = program();
        let members: Members<'_> = &[("a.exe", &program), ("b.zip", &zip(&[("c.txt", b"c")]))];
        let mut octets = match which {
            0 => zip(members),
            1 => tar(members),
            2 => gzip(&tar(members)),
            _ => sevenz(members),
        };
        for (at, octet) in damage {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        if is_cut {
            octets.truncate(cut.index(octets.len()));
        }
        look_at("a.bin", &octets);
    }
}
