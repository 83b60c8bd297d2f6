//! Which system calls a container may make: a list of what programs need, everything else is
//! refused with EPERM.
//!
//! Left out are, with their kin: mounting and namespaces, modules and kexec, tracing other
//! processes, BPF and perf, the kernel keyring, setting clocks, swap, quotas, raw device access,
//! `io_uring` (a wide kernel surface that has had many holes), `userfaultfd`, handles that bypass
//! path checks. What the capabilities would refuse anyway is left out too: two walls.
//!
//! What surprises: `clone3` is refused with ENOSYS, not EPERM. Its flags lie behind a pointer that a
//! filter cannot read, and C libraries fall back to `clone`, whose flags are checked here.
use serde_json::{Value, json};

/// Errno of a refused call.
const EPERM: u32 = 1;
/// Errno that makes a C library use the older call.
const ENOSYS: u32 = 38;

/// The flags of `clone` that make namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER,
/// NEWPID, NEWNET and NEWTIME.
const NAMESPACE_FLAGS: u64 = 0x7e02_0080;

/// Socket families that a function may use: Unix, IPv4, IPv6, netlink (interface lists; without
/// capabilities it can only read). Others, like raw packets and vsock, reach the host too directly.
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// `personality` values that change nothing that matters: Linux, and what shells ask with.
const PERSONALITIES: [u64; 3] = [0, 0x8, 0xffff_ffff];

/// Calls that are allowed whatever their arguments, by what they are for.
const ALLOWED: &[(&str, &str)] = &[
    (
        "files and directories",
        "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat \
         faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl \
         fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync \
         ftruncate futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init \
         inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr llistxattr \
         lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat \
         openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink \
         readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr splice \
         stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask \
         unlink unlinkat utime utimensat utimes vmsplice write writev",
    ),
    (
        "memory",
        "brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap \
         mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
         remap_file_pages process_madvise map_shadow_stack",
    ),
    (
        "processes, threads, users",
        "arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue \
         futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid geteuid \
         getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid \
         getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill pidfd_open \
         pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending \
         rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
         rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
         sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity \
         sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list \
         set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer getitimer \
         setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid \
         sigaltstack tgkill tkill vfork wait4 waitid",
    ),
    (
        "a process limiting itself further",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    ),
    (
        "time and waiting",
        "alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl \
         epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 gettimeofday nanosleep pause poll \
         ppoll pselect6 select signalfd signalfd4 time timer_create timer_delete timer_getoverrun \
         timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times",
    ),
    (
        "communication",
        "accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr \
         mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd \
         pipe pipe2 recvfrom recvmmsg recvmsg semctl semget semop semtimedop sendmmsg sendmsg \
         sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair",
    ),
    (
        "kernel aio, which databases use",
        "io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit",
    ),
    ("the system", "getrandom sysinfo uname"),
];

fn allowed() -> impl Iterator<Item = &'static str> {
    ALLOWED.iter().flat_map(|(_, calls)| calls.split(' '))
}

/// The profile in the form of an OCI configuration.
pub(super) fn profile() -> Value {
    let mut rules = vec![
        json!({"names": allowed().collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW"}),
        json!({
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{
                "index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
            }],
        }),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}),
    ];
    rules.extend(SOCKET_FAMILIES.map(|family| when_equal("socket", family)));
    rules.extend(PERSONALITIES.map(|personality| when_equal("personality", personality)));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        // The machine's own architecture only: calls of another one would be other numbers.
        "architectures": [NATIVE],
        "syscalls": rules,
    })
}

#[cfg(target_arch = "x86_64")]
const NATIVE: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "aarch64")]
const NATIVE: &str = "SCMP_ARCH_AARCH64";

/// Allows a call where its first argument has this value.
fn when_equal(name: &str, value: u64) -> Value {
    json!({
        "names": [name],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn nothing_that_reaches_the_kernel_beyond_a_program_is_allowed() {
        let listed: HashSet<_> = allowed().collect();
        assert_eq!(listed.len(), allowed().count(), "a call is listed twice");
        for refused in [
            "mount",
            "umount2",
            "pivot_root",
            "unshare",
            "setns",
            "clone",
            "clone3",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "bpf",
            "perf_event_open",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "kexec_file_load",
            "reboot",
            "swapon",
            "keyctl",
            "add_key",
            "request_key",
            "io_uring_setup",
            "userfaultfd",
            "open_by_handle_at",
            "name_to_handle_at",
            "clock_settime",
            "settimeofday",
            "iopl",
            "ioperm",
            "quotactl",
            "acct",
            "syslog",
            "socket",
            "personality",
            "pidfd_getfd",
            "fsopen",
            "fsmount",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "kcmp",
        ] {
            assert!(!listed.contains(refused), "{refused} must not be allowed outright");
        }
    }
}
