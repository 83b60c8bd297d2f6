//! Starting the function's process: everything between `fork` and `execve`.
//!
//! The child joins the function's cgroup first, while it may, then gives up every privilege. It gets
//! descriptors 0, 1 and 2 and nothing else. What fails is named: the child reports an error number
//! through the standard library's pipe, and a step number is packed on top of it.
use crate::event::Event;
use crate::reaper::{Exit, Reaper};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// The user and group that functions run as, in every guest.
pub const FUNCTION_ID: u32 = 1000;

/// Error numbers are below this; a step in the child adds multiples of it.
const STEP: i32 = 1 << 16;

/// The steps in the child that can fail, in order.
const STEPS: [&str; 6] = [
    "join the function's cgroup",
    "make a session",
    "limit core dumps",
    "become the function's user",
    "give up privileges",
    "enter the code's directory",
];

/// What to start.
pub struct Program<'a> {
    /// Program and arguments.
    pub command: &'a [String],
    /// The whole environment.
    pub env: Vec<(&'a str, &'a str)>,
    /// Where it starts: one of the two paths of the code, or what its image says.
    pub directory: &'a str,
    /// The cgroup files to join, open for writing.
    pub procs_files: &'a [File],
    /// What it reads.
    pub stdin: Stdin,
}

/// The standard input of a function.
pub enum Stdin {
    /// Nothing.
    Empty,
    /// A pipe from the agent (`persistent`).
    Pipe,
    /// This file.
    File(File),
}

impl Program<'_> {
    /// Starts it; `event` is raised when it ends.
    ///
    /// # Errors
    /// A message for the function's author.
    pub fn start(self, reaper: &Reaper, event: Arc<Event>) -> Result<(Child, Exit), String> {
        let name = self.command.first().map(String::as_str).unwrap_or_default();
        let path_variable =
            self.env.iter().find(|(key, _)| *key == "PATH").map(|(_, value)| *value);
        let path = resolve(name, self.directory, path_variable.unwrap_or_default())?;
        let too_odd =
            |_| format!("cannot start `{name}`: a zero byte in its arguments or environment");
        let program = CString::new(path.as_os_str().as_bytes()).map_err(too_odd)?;
        let arguments = c_strings(self.command.iter().cloned()).map_err(too_odd)?;
        let environment = c_strings(self.env.iter().map(|(key, value)| format!("{key}={value}")))
            .map_err(too_odd)?;
        let directory = CString::new(self.directory).map_err(too_odd)?;
        let procs: Vec<i32> = self.procs_files.iter().map(AsRawFd::as_raw_fd).collect();

        let mut command = Command::new(&path);
        command
            .stdin(match self.stdin {
                Stdin::Empty => Stdio::null(),
                Stdin::Pipe => Stdio::piped(),
                Stdin::File(file) => file.into(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let argv = pointers(&arguments);
        let envp = pointers(&environment);
        // SAFETY: `become_function` allocates nothing and takes no lock, as a child of a process with
        // threads must not; the strings that the pointers lead to live until `spawn` has returned.
        unsafe {
            command.pre_exec(move || {
                become_function(&procs, &directory)?;
                let (argv, envp) = (&argv, &envp);
                libc::execve(program.as_ptr(), argv.0.as_ptr(), envp.0.as_ptr());
                Err(io::Error::last_os_error())
            });
        }
        let started = reaper.spawn(&mut command, event);
        drop((arguments, environment));
        started.map_err(|error| explain(&path, &error))
    }
}

/// A null-terminated array for `execve`.
struct Pointers(Vec<*const libc::c_char>);
// SAFETY: the pointers are only read, in the child, of which there is one thread.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

fn pointers(strings: &[CString]) -> Pointers {
    Pointers(strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect())
}

fn c_strings(strings: impl Iterator<Item = String>) -> Result<Vec<CString>, std::ffi::NulError> {
    strings.map(CString::new).collect()
}

/// Makes the forked child the function's: its cgroup, session, user; no privilege, no descriptor.
fn become_function(procs: &[i32], directory: &CStr) -> io::Result<()> {
    for &fd in procs {
        // SAFETY: as all blocks here: a plain system call on values that live long enough, and
        // async-signal-safe.
        let written = unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) };
        check(0, written as i64)?;
    }
    // The agent is exempt from the OOM killer where it may be; the function must not inherit that. A
    // container is preferred by it, and stays so.
    // SAFETY: see above.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if fd >= 0 {
            let mut sign = 0_u8;
            if libc::read(fd, (&raw mut sign).cast(), 1) == 1 && sign == b'-' {
                libc::pwrite(fd, c"0".as_ptr().cast(), 1, 0);
            }
            libc::close(fd);
        }
    }
    // SAFETY: see above.
    check(1, unsafe { libc::setsid() }.into())?;
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: see above.
    check(2, unsafe { libc::setrlimit(libc::RLIMIT_CORE, &no_core) }.into())?;
    // Raw calls: the wrappers of libc would signal threads that do not exist in this child.
    // SAFETY: see above.
    unsafe {
        check(3, libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        check(3, libc::syscall(libc::SYS_setresgid, FUNCTION_ID, FUNCTION_ID, FUNCTION_ID))?;
        check(3, libc::syscall(libc::SYS_setresuid, FUNCTION_ID, FUNCTION_ID, FUNCTION_ID))?;
        check(4, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        libc::umask(0o022);
        check(5, libc::chdir(directory.as_ptr()).into())?;
        // All descriptors are close-on-exec already; this holds even if one was forgotten.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

fn check(step: i32, result: i64) -> io::Result<()> {
    if result >= 0 {
        return Ok(());
    }
    let number = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(io::Error::from_raw_os_error((step + 1) * STEP + number))
}

/// Finds the program as a shell would: a name with a slash is a path, seen from where it starts.
fn resolve(name: &str, directory: &str, path_variable: &str) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("cannot start the function: its command is empty".into());
    }
    if name.contains('/') {
        return Ok(Path::new(directory).join(name));
    }
    let directories = path_variable.split(':').filter(|directory| directory.starts_with('/'));
    directories
        .map(|directory| Path::new(directory).join(name))
        .find(|path| is_executable(path))
        .ok_or_else(|| format!("cannot start `{name}`: no such program in PATH ({path_variable})"))
}

/// Whether this is a program, or looks like one.
pub fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What a failed start means to the function's author.
fn explain(path: &Path, error: &io::Error) -> String {
    let path_text = OsStr::to_string_lossy(path.as_os_str());
    let number = error.raw_os_error().unwrap_or_default();
    if number >= STEP {
        let step = STEPS.get((number / STEP - 1) as usize).unwrap_or(&"prepare it");
        let cause = io::Error::from_raw_os_error(number % STEP);
        return format!("cannot start `{path_text}`: could not {step}: {cause}");
    }
    let reason = match number {
        libc::ENOENT if path.exists() => {
            "it is there, but the interpreter in its first line, or the loader that it is linked \
             for, is not in the runtime image"
                .into()
        }
        libc::ENOENT => "no such file; check the function's handler".into(),
        libc::EACCES if path.is_dir() => "it is a directory".into(),
        libc::EACCES => "permission denied; is it executable (chmod +x)?".into(),
        libc::ENOEXEC => "not a program for this machine; a script needs a first line like \
                          `#!/bin/sh`"
            .into(),
        libc::E2BIG => "its arguments and environment are too large".into(),
        libc::EAGAIN => "the function's limit of processes is reached".into(),
        _ => error.to_string(),
    };
    format!("cannot start `{path_text}`: {reason}")
}
