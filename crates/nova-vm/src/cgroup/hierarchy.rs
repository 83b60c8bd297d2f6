//! Which hierarchies are mounted, read from `/proc/self/mountinfo`.
use std::path::PathBuf;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub mount_point: PathBuf,
    pub kind: Kind,
    /// Its controllers; several where they are mounted together (`cpu,cpuacct`).
    pub controllers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    V1,
    V2,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// The cgroup mounts in the text of a mountinfo file, the first mount of each hierarchy.
pub(super) fn mounted(mountinfo: &str) -> Vec<Hierarchy> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo.lines().filter_map(parse) {
        let seen = hierarchies.iter().any(|other| {
            other.kind == hierarchy.kind && other.controllers == hierarchy.controllers
        });
        if !seen {
            hierarchies.push(hierarchy);
        }
    }
    hierarchies
}

/// One line: `ID PARENT MAJOR:MINOR ROOT MOUNT_POINT OPTIONS [TAGS] - TYPE SOURCE SUPER_OPTIONS`.
fn parse(line: &str) -> Option<Hierarchy> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mount_point = PathBuf::from(mount.split(' ').nth(4)?);
    let mut fields = filesystem.split(' ');
    match fields.next()? {
        "cgroup" => {
            let options = fields.nth(1)?;
            // Everything that is not a controller: flags of the mount, and `name=systemd`, which is
            // kept because it tells that hierarchy from others without controllers.
            let controllers = options
                .split(',')
                .filter(|option| {
                    !["rw", "ro", "xattr", "noprefix", "clone_children"].contains(option)
                })
                .filter(|option| !option.starts_with("release_agent="))
                .map(str::to_owned)
                .collect();
            Some(Hierarchy { mount_point, kind: Kind::V1, controllers })
        }
        "cgroup2" => {
            let file = mount_point.join("cgroup.controllers");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let controllers = text.split_ascii_whitespace().map(str::to_owned).collect();
            Some(Hierarchy { mount_point, kind: Kind::V2, controllers })
        }
        _ => None,
    }
}
