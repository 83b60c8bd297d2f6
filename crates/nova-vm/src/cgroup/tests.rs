//! Against recorded mount tables, and against the host's own hierarchies where the tests run as root.
use super::*;
use std::process::{Child, Command, Stdio};

const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,name=systemd
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
35 25 0:28 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct
";

#[test]
fn controllers_that_are_mounted_together_are_found() {
    let cgroups = Cgroups::from_mountinfo(V1).unwrap();
    assert_eq!(cgroups.version(), Version::V1);
    let of_cpu = cgroups.hierarchies.iter().find(|hierarchy| hierarchy.has("cpu")).unwrap();
    assert_eq!(of_cpu.mount_point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(cgroups.hierarchies.len(), 4, "a second mount of a hierarchy is not another one");
}

#[test]
fn a_missing_controller_is_named() {
    let without_memory = V1.replace("rw,memory", "rw,hugetlb");
    let error = Cgroups::from_mountinfo(&without_memory).unwrap_err();
    assert!(error.to_string().contains("memory controller"), "{error}");
}

/// A group of this test on the real host; removed when dropped.
struct Scratch(Group);

impl Scratch {
    fn new(name: &str) -> Self {
        let cgroups = Cgroups::detect().unwrap();
        Self(cgroups.group(format!("nova-test-{}-{name}/vm", std::process::id())))
    }

    fn parent(&self) -> Group {
        Group::new(Arc::clone(&self.0.hierarchies), self.0.name.replace("/vm", ""))
    }

    fn run(&self, script: &str) -> Child {
        let moves: String = self
            .0
            .child("fn")
            .procs_files()
            .iter()
            .map(|file| format!("echo 0 > {}; ", file.display()))
            .collect();
        Command::new("/bin/sh")
            .args(["-c", &format!("{moves} echo ready; {script}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.parent().kill();
        self.parent().remove().unwrap();
    }
}

fn wait_until_ready(child: &mut Child) {
    use std::io::BufRead;
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    std::io::BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
}

const LIMITS: GroupLimits =
    GroupLimits { memory_bytes: Some(32 << 20), cpus: Some(1), pids: Some(50) };

#[test]
fn a_group_is_made_limited_listed_and_removed() {
    let scratch = Scratch::new("made");
    scratch.0.create(&LIMITS).unwrap();
    scratch.0.child("fn").create(&LIMITS).unwrap();
    let cgroups = Cgroups::detect().unwrap();
    assert_eq!(
        cgroups.children(scratch.parent().name()).unwrap(),
        BTreeSet::from(["vm".to_owned()])
    );
    assert!(scratch.0.exists());
    let counter = std::fs::read_to_string(scratch.0.child("fn").oom_counter().unwrap()).unwrap();
    assert!(counter.lines().any(|line| line == "oom_kill 0"), "{counter}");
    scratch.0.remove().unwrap();
    assert!(!scratch.0.exists());
    scratch.0.remove().unwrap();
}

#[test]
fn a_process_over_the_memory_limit_is_killed_and_counted() {
    let scratch = Scratch::new("oom");
    scratch.0.create(&GroupLimits::default()).unwrap();
    let function = scratch.0.child("fn");
    function.create(&LIMITS).unwrap();
    let status = scratch.run("head -c 64m /dev/zero | tail -c 60m > /dev/null").wait().unwrap();
    assert!(!status.success());
    let counter = std::fs::read_to_string(function.oom_counter().unwrap()).unwrap();
    assert!(counter.lines().any(|line| line == "oom_kill 1"), "{counter}");
}

#[test]
fn kill_ends_even_a_fork_bomb() {
    let scratch = Scratch::new("bomb");
    scratch.0.child("fn").create(&LIMITS).unwrap();
    let mut bomb = scratch.run("b() { b & b & wait; }; b");
    wait_until_ready(&mut bomb);
    scratch.0.kill().unwrap();
    assert!(scratch.0.processes().unwrap().is_empty());
    assert!(!bomb.wait().unwrap().success());
    scratch.0.remove().unwrap();
}

#[test]
fn kill_leaves_groups_beside_it_alone() {
    let (mine, other) = (Scratch::new("mine"), Scratch::new("mine2"));
    mine.0.child("fn").create(&LIMITS).unwrap();
    other.0.child("fn").create(&LIMITS).unwrap();
    let (mut killed, mut kept) = (mine.run("sleep 600"), other.run("sleep 600"));
    wait_until_ready(&mut killed);
    wait_until_ready(&mut kept);
    mine.0.kill().unwrap();
    killed.wait().unwrap();
    assert!(kept.try_wait().unwrap().is_none());
    other.0.kill().unwrap();
    kept.wait().unwrap();
}
