//! What a file is: by its content, and by its name where content says nothing or was not seen.

use infer::MatcherType;

use super::class::Class;
use super::names::extension;

/// Octets at the beginning of a file that are enough to know whether it is an archive, and most other kinds: an ISO image
/// says what it is at 36 KiB.
pub(super) const HEAD: usize = 64 * 1024;

pub(super) type Kind = (Class, &'static str);

/// Archives that are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Zip,
    Gzip,
    Tar,
    SevenZ,
}

pub(super) fn container(data: &[u8]) -> Option<Container> {
    if data.starts_with(b"PK\x03\x04") || data.starts_with(b"PK\x05\x06") {
        Some(Container::Zip)
    } else if data.starts_with(b"\x1f\x8b\x08") {
        Some(Container::Gzip)
    } else if data.starts_with(b"7z\xbc\xaf\x27\x1c") {
        Some(Container::SevenZ)
    } else if super::tar::begins(data) {
        Some(Container::Tar)
    } else {
        None
    }
}

/// More of the file than its head has to be seen.
pub(super) fn needs_all(head: &[u8]) -> bool {
    container(head).is_some() || head.starts_with(OLE)
}

const OLE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";

/// Of content that was seen. `named`: it is a file, not the text of the message.
pub(super) fn of(data: &[u8], names: &[String], named: bool) -> Option<Kind> {
    let kind = by_signature(data).or_else(|| elsewhere(data)).or_else(|| compound(data));
    let kind = kind.or_else(|| if named { script(data) } else { None });
    if kind.is_some() {
        return kind;
    }
    // Programs and texts were looked at above, more closely.
    let harmless =
        infer::get(data).filter(|kind| !matches!(kind.matcher_type(), MatcherType::App | MatcherType::Text));
    let harmless = harmless.map(|kind| (Class::Other, kind.extension()));
    if !named || harmless.is_some() {
        return harmless;
    }
    names.iter().find_map(|name| by_name(&extension(name), Some(is_text(data))))
}

/// Of content that could not be seen.
pub(super) fn of_name(name: &str) -> Option<Kind> {
    by_name(&extension(name), None)
}

fn by_signature(data: &[u8]) -> Option<Kind> {
    if data.starts_with(b"MZ") || data.starts_with(b"ZM") {
        return dos(data);
    }
    if data.starts_with(b"\xca\xfe\xba\xbe") {
        // A universal binary counts its architectures where Java has its version, 45 and up.
        let number = u32::from_be_bytes(data.get(4..8)?.try_into().ok()?);
        return Some(if number < 45 { (Class::Executable, "mach-o") } else { (Class::Java, "class") });
    }
    let known = SIGNATURES.iter().find(|(signature, _)| data.starts_with(signature));
    known.map(|(_, kind)| *kind)
}

const SIGNATURES: &[(&[u8], Kind)] = &[
    (b"\x7fELF", (Class::Executable, "elf")),
    (b"\xfe\xed\xfa\xce", (Class::Executable, "mach-o")),
    (b"\xfe\xed\xfa\xcf", (Class::Executable, "mach-o")),
    (b"\xce\xfa\xed\xfe", (Class::Executable, "mach-o")),
    (b"\xcf\xfa\xed\xfe", (Class::Executable, "mach-o")),
    (b"\x4c\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46", (Class::Shortcut, "lnk")),
    (b"[InternetShortcut]", (Class::Shortcut, "url")),
    (b"ITSF", (Class::Help, "chm")),
    (b"dex\n03", (Class::Installer, "dex")),
    (b"!<arch>\ndebian", (Class::Installer, "deb")),
    (b"\xed\xab\xee\xdb", (Class::Installer, "rpm")),
    (b"vhdxfile", (Class::DiskImage, "vhdx")),
    (b"conectix", (Class::DiskImage, "vhd")),
    (b"KDMV", (Class::DiskImage, "vmdk")),
    (b"QFI\xfb", (Class::DiskImage, "qcow")),
    (b"PK\x03\x04", (Class::Archive, "zip")),
    (b"PK\x05\x06", (Class::Archive, "zip")),
    (b"\x1f\x8b\x08", (Class::Archive, "gz")),
    (b"7z\xbc\xaf\x27\x1c", (Class::Archive, "7z")),
    (b"Rar!\x1a\x07", (Class::UnopenedArchive, "rar")),
    (b"MSCF\0\0\0\0", (Class::UnopenedArchive, "cab")),
    (b"\xfd7zXZ\0", (Class::UnopenedArchive, "xz")),
    (b"BZh", (Class::UnopenedArchive, "bz2")),
    (b"\x28\xb5\x2f\xfd", (Class::UnopenedArchive, "zst")),
    (b"\x04\x22\x4d\x18", (Class::UnopenedArchive, "lz4")),
    (b"\x60\xea", (Class::UnopenedArchive, "arj")),
    (b"LZIP\x01", (Class::UnopenedArchive, "lz")),
    (b"\x1f\x9d", (Class::UnopenedArchive, "z")),
    (b"070701", (Class::UnopenedArchive, "cpio")),
    (b"MSWIM\0\0\0", (Class::UnopenedArchive, "wim")),
    (b"xar!", (Class::UnopenedArchive, "xar")),
];

/// `MZ` begins a program, but also a text that happens to begin so.
fn dos(data: &[u8]) -> Option<Kind> {
    let offset = data.get(0x3c..0x40).and_then(|octets| octets.try_into().ok()).map(u32::from_le_bytes);
    let new = offset.and_then(|offset| data.get(usize::try_from(offset).ok()?..));
    if new.is_some_and(|new| new.starts_with(b"PE\0\0") || new.starts_with(b"NE") || new.starts_with(b"LE")) {
        return Some((Class::Executable, "exe"));
    }
    (!is_text(data)).then_some((Class::Executable, "dos"))
}

/// Kinds that say so elsewhere than at their beginning.
fn elsewhere(data: &[u8]) -> Option<Kind> {
    let at = |offset: usize, mark: &[u8]| data.get(offset..).is_some_and(|rest| rest.starts_with(mark));
    let volumes = [0x8001, 0x8801, 0x9001];
    if volumes.iter().any(|offset| at(*offset, b"CD001") || at(*offset, b"BEA01")) {
        return Some((Class::DiskImage, "iso"));
    }
    if data.len() >= 512 && data[data.len() - 512..].starts_with(b"koly") {
        return Some((Class::DiskImage, "dmg"));
    }
    // A boot sector: jumps over its own description, and ends in its mark.
    let jumps = data.first() == Some(&0xeb) && data.get(2) == Some(&0x90) || data.first() == Some(&0xe9);
    if at(510, b"\x55\xaa") && jumps || at(0x200, b"EFI PART") {
        return Some((Class::DiskImage, "img"));
    }
    if super::tar::begins(data) {
        return Some((Class::Archive, "tar"));
    }
    if at(7, b"**ACE**") {
        return Some((Class::UnopenedArchive, "ace"));
    }
    (at(2, b"-lh") && at(6, b"-")).then_some((Class::UnopenedArchive, "lzh"))
}

/// Microsoft's compound files: old office documents, installers, and new documents with a password.
fn compound(data: &[u8]) -> Option<Kind> {
    if !data.starts_with(OLE) {
        return None;
    }
    let holds = |mark: &[u8]| memchr::memmem::find(data, mark).is_some();
    let named = |name: &str| holds(&name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    Some(if holds(b"\x84\x10\x0c\0\0\0\0\0\xc0\0\0\0\0\0\0\x46") {
        (Class::Installer, "msi")
    } else if named("EncryptedPackage") {
        (Class::EncryptedArchive, "office")
    } else if named("_VBA_PROJECT") {
        (Class::OfficeMacro, "office")
    } else {
        (Class::Other, "compound")
    })
}

fn script(data: &[u8]) -> Option<Kind> {
    let start = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data).trim_ascii_start();
    let start = &start[..start.len().min(1024)];
    let begins =
        |mark: &str| start.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark.as_bytes()));
    let holds = |mark: &str| start.windows(mark.len()).any(|some| some.eq_ignore_ascii_case(mark.as_bytes()));
    if begins("#!") {
        Some((Class::Script, "sh"))
    } else if begins("@echo off") {
        Some((Class::Script, "bat"))
    } else if begins("<") && holds("<hta:application") {
        Some((Class::Script, "hta"))
    } else if begins("<job") || begins("<package>") {
        Some((Class::Script, "wsf"))
    } else if begins("#@~^") {
        Some((Class::Script, "encoded"))
    } else {
        None
    }
}

/// `text`: whether the content reads as text; none if it was not seen.
fn by_name(extension: &str, text: Option<bool>) -> Option<Kind> {
    let (kind, when) = EXTENSIONS.iter().find_map(|(known, class, when)| {
        known.iter().find(|known| **known == extension).map(|known| ((*class, *known), *when))
    })?;
    let holds = match when {
        When::Always => true,
        When::NotText => text != Some(true),
        When::Unseen => text.is_none(),
    };
    holds.then_some(kind)
}

/// When a name decides.
#[derive(Debug, Clone, Copy)]
enum When {
    /// What opens it goes by its name.
    Always,
    /// What opens it would see at once that it is text.
    NotText,
    /// Content would have said so.
    Unseen,
}

const EXTENSIONS: &[(&[&str], Class, When)] = &[
    (&["scr", "pif", "com", "cpl", "exe", "dll", "sys", "ocx"], Class::Executable, When::NotText),
    (
        &[
            "bat", "cmd", "js", "jse", "vbs", "vbe", "vb", "wsf", "wsh", "wsc", "ps1", "psm1", "psd1", "hta",
            "sct", "reg",
        ],
        Class::Script,
        When::Always,
    ),
    (&["lnk", "url", "scf", "library-ms", "search-ms", "appref-ms"], Class::Shortcut, When::Always),
    (&["iso", "img", "vhd", "vhdx", "udf", "dmg"], Class::DiskImage, When::NotText),
    (
        &["msi", "msp", "mst", "msix", "appx", "msixbundle", "apk", "deb", "rpm"],
        Class::Installer,
        When::Unseen,
    ),
    (&["chm", "hlp"], Class::Help, When::NotText),
    (&["jar", "class"], Class::Java, When::Unseen),
    (&["jnlp"], Class::Java, When::Always),
    (
        &["docm", "dotm", "xlsm", "xltm", "xlam", "pptm", "potm", "ppam", "ppsm", "sldm"],
        Class::OfficeMacro,
        When::Unseen,
    ),
];

/// What the names in a zip file say of the whole.
pub(super) fn of_zip<'n>(names: impl Iterator<Item = &'n str>) -> Option<Kind> {
    let mut kind: Option<Kind> = None;
    for name in names {
        let name = name.to_ascii_lowercase();
        if name.ends_with("vbaproject.bin") || name.starts_with("basic/") && name.ends_with(".xml") {
            return Some((Class::OfficeMacro, "office"));
        }
        let this = match name.as_str() {
            "androidmanifest.xml" => (Class::Installer, "apk"),
            "appxmanifest.xml" => (Class::Installer, "appx"),
            "meta-inf/manifest.mf" => (Class::Java, "jar"),
            "[content_types].xml" => (Class::Other, "office"),
            _ => continue,
        };
        // An apk has a manifest as well.
        if kind.is_none_or(|known| this.0 == Class::Installer || known.0 == Class::Other) {
            kind = Some(this);
        }
    }
    kind
}

/// Few control characters, and no zero.
fn is_text(data: &[u8]) -> bool {
    let start = &data[..data.len().min(4096)];
    let control =
        start.iter().filter(|octet| octet.is_ascii_control() && !b"\t\r\n\x0c".contains(octet)).count();
    !start.contains(&0) && control * 50 <= start.len()
}
