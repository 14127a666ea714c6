//! Classes of files.

use crate::content::Trouble;

/// What a file can do to who opens it, or why it was not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A program: Windows, DOS, Linux, macOS.
    Executable,
    /// A text that runs when opened.
    Script,
    Shortcut,
    DiskImage,
    Installer,
    /// Compiled HTML help.
    Help,
    Java,
    /// An office document with a program in it.
    OfficeMacro,
    Archive,
    /// Its name is among those that the operator bans.
    BannedName,
    Other,
    EncryptedArchive,
    BrokenArchive,
    /// Too deep, too many, too large, or packed too tightly.
    ArchiveLimit,
    /// An archive of a kind that is not opened here.
    UnopenedArchive,
    BrokenEncoding,
    TooManyParts,
    TooDeep,
    TooBig,
    OutOfTime,
}

impl Class {
    pub const ALL: [Self; 20] = [
        Self::Executable,
        Self::Script,
        Self::Shortcut,
        Self::DiskImage,
        Self::Installer,
        Self::Help,
        Self::Java,
        Self::OfficeMacro,
        Self::Archive,
        Self::BannedName,
        Self::Other,
        Self::EncryptedArchive,
        Self::BrokenArchive,
        Self::ArchiveLimit,
        Self::UnopenedArchive,
        Self::BrokenEncoding,
        Self::TooManyParts,
        Self::TooDeep,
        Self::TooBig,
        Self::OutOfTime,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Executable => "executable",
            Self::Script => "script",
            Self::Shortcut => "shortcut",
            Self::DiskImage => "disk-image",
            Self::Installer => "installer",
            Self::Help => "help",
            Self::Java => "java",
            Self::OfficeMacro => "office-macro",
            Self::Archive => "archive",
            Self::BannedName => "banned-name",
            Self::Other => "other",
            Self::EncryptedArchive => "encrypted-archive",
            Self::BrokenArchive => "broken-archive",
            Self::ArchiveLimit => "archive-limit",
            Self::UnopenedArchive => "unopened-archive",
            Self::BrokenEncoding => "broken-encoding",
            Self::TooManyParts => "too-many-parts",
            Self::TooDeep => "too-deep",
            Self::TooBig => "too-big",
            Self::OutOfTime => "out-of-time",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// It says that something was not seen.
    pub fn is_unscannable(self) -> bool {
        matches!(
            self,
            Self::EncryptedArchive
                | Self::BrokenArchive
                | Self::ArchiveLimit
                | Self::UnopenedArchive
                | Self::BrokenEncoding
                | Self::TooManyParts
                | Self::TooDeep
                | Self::TooBig
                | Self::OutOfTime
        )
    }
}

impl From<Trouble> for Class {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::TooBig => Self::TooBig,
            Trouble::TooManyParts => Self::TooManyParts,
            Trouble::TooDeep => Self::TooDeep,
            Trouble::BrokenEncoding => Self::BrokenEncoding,
            Trouble::OutOfTime => Self::OutOfTime,
        }
    }
}
