//! What outlives the agent in `closed`, and in `open` while customers are blocked: links, program and maps, pinned in a
//! directory.
//!
//! | file | what |
//! |---|---|
//! | `link_INDEX_SIDE` | the link on the interface with this index |
//! | `program_SIDE` | the program that such links run |
//! | `map_NAME` | a map of these programs |
//!
//! A new agent pins all of its own in a directory beside, replaces the program of each link in one
//! step, and then renames: at no moment does a customer's SYN meet no program. A directory beside that
//! an agent left when it died half-way is taken over like the real one.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use nix::mount::{MsFlags, mount, umount};
use weir_ebpf_common::Side;

use super::attach::{self, Attachment, Hold};
use super::interfaces::known_links;
use super::link::Link;
use super::program::{Program, describe};
use crate::steer::host::is_in_bpffs;
use crate::steer::{Plan, SteerError};

/// Attaches the program to every interface, in place of what an earlier agent left, and pins it.
/// After an error the earlier agent's program is back on its links.
pub(super) fn take_over(program: &mut Program, plan: &Plan) -> Result<Vec<Attachment>, SteerError> {
    let mut change = Change::begin(&plan.pin_directory)?;
    let attachments = change.attach_all(program, plan)?;
    change.commit()?;
    Ok(attachments)
}

/// Has the program stay on its interfaces if the agent dies.
pub(super) fn hold(
    program: &mut Program,
    directory: &Path,
    attachments: &[Attachment],
) -> Result<(), SteerError> {
    mount_if_needed(directory)?;
    // Of an earlier hold that failed half-way.
    remove_directory(directory)?;
    fs::create_dir_all(directory).map_err(|error| pin_error(directory, error))?;
    for side in Side::BOTH {
        let path = directory.join(format!("program_{}", word(side)));
        program.classifier(side)?.pin(&path).map_err(|error| pin_error(&path, other(&error)))?;
    }
    attachments.iter().try_for_each(|attachment| add(directory, attachment))
}

/// Has this one stay, too, in a directory that there is.
pub(super) fn add(directory: &Path, attachment: &Attachment) -> Result<(), SteerError> {
    let path = file_of(directory, attachment);
    attachment.pin(&path).map_err(|error| pin_error(&path, error))
}

/// Has it end with the process.
pub(super) fn forget(directory: &Path, attachment: &Attachment) -> Result<(), SteerError> {
    let path = file_of(directory, attachment);
    match fs::remove_file(&path) {
        // A filter has none, nor does what nobody holds.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(pin_error(&path, error)),
        _ => Ok(()),
    }
}

fn file_of(directory: &Path, attachment: &Attachment) -> PathBuf {
    directory.join(link_name(attachment.index(), attachment.side()))
}

/// Has a BPF file system where the program is pinned as soon as somebody is blocked: what only a start has the
/// privileges for.
pub(super) fn prepare(directory: &Path) -> Result<(), SteerError> {
    mount_if_needed(directory).map(drop)
}

/// Puts files of this program, and of its places, in the place of those of the agent before.
pub(super) fn renew(
    program: &mut Program,
    directory: &Path,
    attachments: &[Attachment],
) -> Result<(), SteerError> {
    let mut change = Change::begin(directory)?;
    change.gives_back = false;
    change.pin(program)?;
    for attachment in attachments {
        let path = change.staging.join(link_name(attachment.index(), attachment.side()));
        attachment.pin(&path).map_err(|error| pin_error(&path, error))?;
    }
    change.commit()
}

/// Removes all pins of ours; says which directories they were in.
pub(in crate::steer) fn remove(directory: &Path) -> Result<Vec<String>, SteerError> {
    let mut removed = Vec::new();
    for pins in left_behind(directory) {
        remove_directory(&pins)?;
        removed.push(format!("pinned programs in {}", pins.display()));
    }
    Ok(removed)
}

/// A change from what is pinned to what shall be. Dropped before `commit`, it is taken back.
struct Change {
    directory: PathBuf,
    /// Where the new pins are made.
    staging: PathBuf,
    /// Where pins of earlier agents are.
    previous: Vec<PathBuf>,
    /// The file system that we mounted.
    mounted: Option<PathBuf>,
    /// Links run another program now: that of the agent before is to be put back.
    gives_back: bool,
    committed: bool,
}

impl Change {
    fn begin(directory: &Path) -> Result<Self, SteerError> {
        let mounted = mount_if_needed(directory)?;
        let previous = left_behind(directory);
        let staging = beside(directory, &std::process::id().to_string());
        let directory = directory.to_owned();
        let mut change = Self { directory, staging, previous, mounted, gives_back: true, committed: false };
        // The number of a process comes round again; what its namesake left is taken over like the rest.
        while change.previous.contains(&change.staging) {
            change.staging = beside(&change.staging, "1");
        }
        fs::create_dir_all(&change.staging).map_err(|error| pin_error(&change.staging, error))?;
        Ok(change)
    }

    fn attach_all(&mut self, program: &mut Program, plan: &Plan) -> Result<Vec<Attachment>, SteerError> {
        self.pin(program)?;
        let mut attachments = Vec::new();
        for (link, side) in plan.places(&known_links()?) {
            attachments.push(self.attach(program, link.name.clone(), side)?);
        }
        Ok(attachments)
    }

    /// Programs and maps.
    fn pin(&self, program: &mut Program) -> Result<(), SteerError> {
        for side in Side::BOTH {
            let path = self.staging.join(format!("program_{}", word(side)));
            program.classifier(side)?.pin(&path).map_err(|error| pin_error(&path, other(&error)))?;
        }
        for (name, map) in program.maps() {
            // Dots are reserved in a BPF file system; the compiler makes a map `.rodata`.
            let path = self.staging.join(format!("map_{}", name.trim_start_matches('.')));
            map.pin(&path).map_err(|error| pin_error(&path, other(&error)))?;
        }
        Ok(())
    }

    fn attach(&self, program: &mut Program, interface: String, side: Side) -> Result<Attachment, SteerError> {
        let index = attach::index(&interface)?;
        let path = self.staging.join(link_name(index, side));
        let classifier = program.classifier(side)?;
        if let Some((link, _)) = self.previous_link(index) {
            // Pinned before it changes, so that taking back finds it.
            link.pin(&path).map_err(|error| pin_error(&path, error))?;
            // A link whose interface is gone is of no use, even if another now has its number.
            if attach::replace(classifier, &link).is_ok() {
                return Ok(Attachment::new(interface, index, side, Hold::Link(link)));
            }
            fs::remove_file(&path).map_err(|error| pin_error(&path, error))?;
        }
        let Some(link) = attach::attach_tcx(classifier, &interface, index)? else {
            return attach::attach_lasting_filter(program, &interface, side);
        };
        link.pin(&path).map_err(|error| pin_error(&path, error))?;
        Ok(Attachment::new(interface, index, side, Hold::Link(link)))
    }

    fn commit(mut self) -> Result<(), SteerError> {
        if self.directory.exists() {
            let aside = beside(&self.staging, "old");
            fs::rename(&self.directory, &aside).map_err(|error| pin_error(&self.directory, error))?;
            self.previous.push(aside);
        }
        fs::rename(&self.staging, &self.directory).map_err(|error| pin_error(&self.directory, error))?;
        self.committed = true;
        // Links that are in the new directory as well stay; others end here.
        for previous in self.previous.iter().filter(|path| path.exists() && **path != self.directory) {
            if let Err(error) = remove_directory(previous) {
                tracing::warn!(%error, "pins are left behind; weir-agent cleanup removes them");
            }
        }
        Ok(())
    }

    /// The link that an earlier agent had on this interface, and the file it is in.
    fn previous_link(&self, index: u32) -> Option<(Link, PathBuf)> {
        for directory in &self.previous {
            for side in Side::BOTH {
                let path = directory.join(link_name(index, side));
                if let Ok(link) = Link::open(&path) {
                    return Some((link, path));
                }
            }
        }
        None
    }

    /// Puts an earlier agent's program back on a link that we had taken.
    fn give_back(&self, index: u32) {
        let Some((link, path)) = self.previous_link(index) else { return };
        let side =
            if path.to_string_lossy().ends_with(word(Side::Customer)) { "customer" } else { "internet" };
        let program = path.with_file_name(format!("program_{side}"));
        let outcome = SchedClassifier::from_pin(&program)
            .map_err(|error| describe(&error))
            .and_then(|classifier| attach::replace(&classifier, &link).map_err(|error| error.to_string()));
        if let Err(reason) = outcome {
            tracing::warn!(program = %program.display(), reason, "could not be put back on its interface");
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        for entry in fs::read_dir(&self.staging).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(index) = name.to_str().and_then(link_index).filter(|_| self.gives_back) {
                self.give_back(index);
            }
        }
        if let Err(error) = remove_directory(&self.staging) {
            tracing::warn!(%error, "pins are left behind; weir-agent cleanup removes them");
        }
        if let Some(mounted) = &self.mounted {
            let _ = umount(mounted);
        }
    }
}

/// The directory and those beside it, where they exist.
fn left_behind(directory: &Path) -> Vec<PathBuf> {
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Vec::new();
    };
    if !is_in_bpffs(parent) {
        // Nothing is there, or the directory is the root of the file system, where others pin too.
        return Vec::new();
    }
    let prefix = format!("{}-", name.to_string_lossy());
    let mut found: Vec<PathBuf> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let other = entry.file_name();
            other == name || other.to_string_lossy().strip_prefix(&prefix).is_some_and(is_suffix)
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    // Newest state first: a directory beside is younger than the real one.
    found.sort_by_key(|path| path == directory);
    found
}

/// `weir-4711`, `weir-4711-old`: not a directory of somebody else's that happens to begin alike.
fn is_suffix(suffix: &str) -> bool {
    suffix
        .split('-')
        .all(|part| part == "old" || (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())))
}

fn beside(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push("-");
    name.push(suffix);
    directory.with_file_name(name)
}

fn link_name(index: u32, side: Side) -> String {
    format!("link_{index}_{}", word(side))
}

fn link_index(name: &str) -> Option<u32> {
    name.strip_prefix("link_")?.split('_').next()?.parse().ok()
}

const fn word(side: Side) -> &'static str {
    match side {
        Side::Customer => "customer",
        Side::Internet => "internet",
    }
}

/// Mounts a BPF file system on the directory's parent, unless it is in one.
fn mount_if_needed(directory: &Path) -> Result<Option<PathBuf>, SteerError> {
    let parent = directory.parent().unwrap_or(Path::new("/")).to_owned();
    match (is_in_bpffs(&parent), is_in_bpffs(directory)) {
        (true, _) => return Ok(None),
        (false, true) => return Err(SteerError::PinsAtRoot { path: directory.to_owned() }),
        (false, false) => {}
    }
    let none: Option<&str> = None;
    mount(Some("bpf"), &parent, Some("bpf"), MsFlags::empty(), none).map_err(|errno| {
        SteerError::NoBpfFileSystem {
            path: directory.to_owned(),
            parent: parent.clone(),
            source: errno.into(),
        }
    })?;
    Ok(Some(parent))
}

/// Unpins what is ours in the directory, and removes it unless somebody else has pinned there as well.
fn remove_directory(directory: &Path) -> Result<(), SteerError> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let ours = ["link_", "program_", "map_"]
            .iter()
            .any(|kind| entry.file_name().to_string_lossy().starts_with(kind));
        if ours {
            fs::remove_file(entry.path()).map_err(|error| pin_error(&entry.path(), error))?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(pin_error(directory, error))
        }
        _ => Ok(()),
    }
}

fn pin_error(path: &Path, source: io::Error) -> SteerError {
    SteerError::Pin { path: path.to_owned(), source }
}

fn other(error: &dyn std::error::Error) -> io::Error {
    io::Error::other(describe(error))
}
