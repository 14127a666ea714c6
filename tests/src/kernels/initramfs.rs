//! A guest's first root: busybox, the modules that reach this machine's files, and two scripts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::kernel::Kernel;

/// The tag of the file system with this machine's files.
pub(crate) const TAG: &str = "machine";

/// Where the guest finds what it shall do.
pub(crate) const PLAN: &str = "/weir-kernels/plan.json";

/// The serial line of the results. The first is the console.
const RESULTS: &str = "/dev/ttyS1";

const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// This machine's root, read only, under an overlay in memory: programs run unchanged, and change nothing here.
const FIRST: &str = "\
#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in $(busybox cat /modules/order); do busybox insmod /modules/$module; done
busybox mount -t virtiofs -o ro machine /below || exec busybox poweroff -f
busybox mount -t tmpfs -o mode=755 above /above
busybox mkdir /above/files /above/work
busybox mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work root /root || exec busybox poweroff -f
busybox cp -r /weir-kernels /root/
exec busybox switch_root /root /bin/busybox sh /weir-kernels/second
";

/// Writes the image of a guest with this kernel that does what `plan` says.
pub(crate) fn write(image: &Path, kernel: &Kernel, runner: &Path, plan: &str) -> Result<()> {
    let mut archive = Archive::default();
    for directory in ["bin", "proc", "dev", "root", "below", "above", "modules", "weir-kernels"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", 0o755, &fs::read(busybox()?)?);
    let mut order = String::new();
    for module in modules(kernel)? {
        let name = module.file_name().context("a module's name")?.to_string_lossy().into_owned();
        if !order.lines().any(|other| other == name) {
            archive.file(&format!("modules/{name}"), 0o644, &fs::read(&module)?);
            order += &format!("{name}\n");
        }
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.file("init", 0o755, FIRST.as_bytes());
    archive.file("weir-kernels/second", 0o755, second(kernel, runner).as_bytes());
    archive.file(PLAN.trim_start_matches('/'), 0o644, plan.as_bytes());
    fs::write(image, archive.end()).with_context(|| image.display().to_string())
}

/// What makes a machine of it. It stays the first process, which takes in orphans.
fn second(kernel: &Kernel, runner: &Path) -> String {
    let modules = kernel.modules();
    format!(
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
         mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n\
         ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr\n\
         mkdir -p /dev/shm /dev/pts /lib/modules\nmount -t tmpfs shm /dev/shm\nmount -t devpts pts /dev/pts\n\
         mount -t tmpfs -o mode=755 run /run\nchmod 1777 /tmp\n\
         rm -rf /lib/modules/{version}\nln -s {directory} /lib/modules/{version}\nmodprobe tun\n\
         ulimit -n 65536\nhostname guest\nip link set lo up\n\
         {runner} inside </dev/null >{RESULTS}\n\
         busybox poweroff -f\n",
        version = kernel.version(),
        directory = modules.display(),
        runner = runner.display(),
    )
}

fn busybox() -> Result<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .context("busybox is missing: run `scripts/install-kernels` first")
}

/// The files of the modules that are needed before this machine's can be seen, in the order in which they are loaded.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for module in MODULES {
        let mut command = Command::new("modprobe");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg("-d").arg(&kernel.directory).args(["-S", kernel.version(), "--show-depends", module]);
        let output = command.output().context("modprobe (run `scripts/install-kernels` first)")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kernel {}, module {module}: {complaint}", kernel.name);
        let said = String::from_utf8(output.stdout)?;
        // Those that are built in are not files.
        files.extend(
            said.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|path| path.trim().into()),
        );
    }
    Ok(files)
}

/// cpio(5), the format "newc".
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let fields = [self.entries, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_format_of_the_kernel() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/a", 0o755, b"12345");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bytes);
        let entries: Vec<&str> = text.split("070701").skip(1).collect();
        assert_eq!(entries.len(), 3);
        // Mode and length, in hexadecimal digits; the name's length counts its end.
        assert_eq!((&entries[1][8..16], &entries[1][48..56]), ("000081ed", "00000005"));
        assert_eq!(&entries[1][88..96], "00000006");
        assert!(entries[1][104..].starts_with("bin/a\0"), "{:?}", entries[1]);
        assert!(entries[2].contains("TRAILER!!!\0"));
    }
}
