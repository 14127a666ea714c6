//! A virtual machine with one of the kernels and this machine's files. Its processes end with this one, however it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use weir_tests::lab::paths;
use weir_tests::wait::{PATIENCE, wait_for};

use crate::initramfs::{self, TAG};
use crate::kernel::Kernel;

/// MiB that tests have.
pub(crate) const MEMORY: u32 = 3072;

/// A busy machine is no reason to mistrust its timer, nor its time stamp counter, which is the real machine's: every other
/// clock costs a way out of the emulation. Nobody attacks a kernel that is emulated.
const PARAMETERS: &str =
    "console=ttyS0 panic=-1 no_timer_check tsc=reliable clocksource=tsc mitigations=off norandmaps";

/// Both the machine and what gives it files: a run is in nobody's way.
const NICE: &str = "15";

const SHOWN_LINES: usize = 40;

pub(crate) struct Guest {
    files: Child,
    machine: Child,
    lines: Receiver<String>,
    console: PathBuf,
    end: Instant,
}

impl Guest {
    /// Starts a guest that does what `plan` says and is done within `limit`.
    pub(crate) fn start(
        kernel: &Kernel,
        plan: &str,
        memory: u32,
        limit: Duration,
        logs: &Path,
    ) -> Result<Self> {
        let directory = logs.join("guest");
        // Of a run before.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("view"))?;
        let image = directory.join("initramfs");
        // Not as this process was started: cargo may have built it anew since.
        initramfs::write(&image, kernel, &paths::program("weir-kernels")?, plan)?;
        let socket = directory.join("socket");
        let mut files = serve_files(&directory.join("view"), &socket, &directory.join("files.log"))?;
        let console = logs.join("console.log");
        let machine = boot(kernel, memory, &image, &socket, &console);
        let mut machine = match machine {
            Ok(machine) => machine,
            Err(error) => {
                end(&mut files);
                return Err(error);
            }
        };
        let (sender, lines) = channel();
        let results = machine.stdout.take().context("the guest's results")?;
        thread::spawn(move || {
            for line in BufReader::new(results).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { files, machine, lines, console, end: Instant::now() + limit })
    }

    /// The next line of its results; `None` when the machine is off.
    pub(crate) fn line(&mut self, patience: Duration) -> Result<Option<String>> {
        let left = self.end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(patience.min(left)) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) if left < patience => bail!("it is not done within its time"),
            Err(RecvTimeoutError::Timeout) => bail!("it has said nothing for {} s", patience.as_secs()),
        }
    }

    /// The end of what the kernel said.
    pub(crate) fn console(&self) -> String {
        let text = fs::read(&self.console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!("{}\n(all of it: {})", last.join("\n"), self.console.display())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&mut self.machine);
        end(&mut self.files);
    }
}

fn end(child: &mut Child) {
    // An error means that it is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

/// A program that is killed when this one ends.
fn bound(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nice", "-n", NICE]).arg(program).stdin(Stdio::null());
    command
}

/// Gives the guest this machine's root, the workspace and the build, read only, wherever they lie.
fn serve_files(view: &Path, socket: &Path, log: &Path) -> Result<Child> {
    let daemon = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/bin/virtiofsd"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.is_file())
        .context("virtiofsd is missing: run `scripts/install-kernels` first")?;
    let mut script = String::from("set -e\nmount --make-rprivate /\n");
    let mut places = vec![PathBuf::from("/")];
    places.extend(paths::visible()?);
    for place in places {
        let at = view.join(place.strip_prefix("/")?);
        let at = at.display();
        script += &format!("mount --bind {0} {at}\nmount -o remount,bind,ro {at}\n", place.display());
    }
    script += &format!(
        "exec {} --socket-path={} -o source={} -o sandbox=chroot -o cache=always",
        daemon.display(),
        socket.display(),
        view.display()
    );
    let output = fs::File::create(log)?;
    let mut command = bound(Path::new("unshare"));
    command.args(["--mount", "sh", "-c", &script]).stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn().context("unshare (of util-linux)")?;
    let listens = wait_for("virtiofsd to listen", PATIENCE, || {
        ensure!(child.try_wait()?.is_none(), "{}", fs::read_to_string(log)?);
        Ok(socket.exists().then_some(()))
    });
    if let Err(error) = listens {
        end(&mut child);
        return Err(error.context("give the guest this machine's files"));
    }
    Ok(child)
}

fn boot(kernel: &Kernel, memory: u32, image: &Path, socket: &Path, console: &Path) -> Result<Child> {
    let mut command = bound(Path::new("qemu-system-x86_64"));
    // Emulated: it works wherever there is qemu. All that is run finds room in translation: a full buffer is emptied, and all
    // is translated anew. One processor: two cost half as much again, waiting for each other. Without cx16: 6.12 ends in a double fault with it (qemu 7.2).
    command.args([
        "-accel",
        "tcg,tb-size=2048",
        "-cpu",
        "max,cx16=off",
        "-smp",
        "1",
        "-m",
        &format!("{memory}M"),
    ]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-nic", "none"]);
    command.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(image);
    command.args(["-append", PARAMETERS]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-chardev", "stdio,id=results,signal=off", "-serial", "chardev:results"]);
    command.args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")]);
    command.args(["-numa", "node,memdev=memory"]);
    command.arg("-chardev").arg(format!("socket,id=files,path={}", socket.display()));
    command.args(["-device", &format!("vhost-user-fs-pci,chardev=files,tag={TAG}")]);
    command.stdout(Stdio::piped());
    command.spawn().map_err(|error| anyhow!("qemu-system-x86_64: {error}"))
}
