//! The name of an archive entry, parsed once into a path that cannot leave the code directory.
use super::CodeError;

/// Most bytes of a whole path; Linux allows 4096 including what `/code` is mounted under.
const PATH_MAX_BYTES: usize = 1024;
/// Most bytes of one component, as every Linux file system has it.
const NAME_MAX_BYTES: usize = 255;
/// Most components: deeper than any package manager nests, and a bound for walking links.
const DEPTH_MAX: usize = 64;

/// Turns an entry's name into `a/b/c`; the empty string is the root itself (`./` in many tars).
pub(super) fn parse(name: &str) -> Result<String, CodeError> {
    let refuse = |problem: String, hint| Err(CodeError::entry(name, problem, hint));
    if name.len() > PATH_MAX_BYTES {
        return refuse(format!("has a path of over {PATH_MAX_BYTES} bytes"), "use shorter paths");
    }
    if name.chars().any(char::is_control) {
        return refuse("has a control character in its name".into(), "rename the file");
    }
    if name.contains('\\') {
        let hint = "pack the archive with `/` between directories";
        return refuse("has a backslash in its name".into(), hint);
    }
    if name.starts_with('/') {
        let hint =
            "pack the archive with relative paths, for example `tar -C folder -czf x.tar.gz .`";
        return refuse("has an absolute path".into(), hint);
    }
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                let hint = "pack the archive from inside the code's own folder";
                return refuse("leads out of the code with `..`".into(), hint);
            }
            long if long.len() > NAME_MAX_BYTES => {
                let problem = format!("has a name of over {NAME_MAX_BYTES} bytes");
                return refuse(problem, "use shorter names");
            }
            part => parts.push(part),
        }
    }
    if parts.len() > DEPTH_MAX {
        return refuse(format!("is over {DEPTH_MAX} directories deep"), "nest less deeply");
    }
    Ok(parts.join("/"))
}

/// Checks what can be said of a link's target by itself; where it leads is judged in the whole tree.
pub(super) fn check_target(name: &str, target: &str) -> Result<(), CodeError> {
    let hint = "link only to files inside the code, with relative paths";
    let problem = if target.is_empty() || target.len() > PATH_MAX_BYTES {
        "is a symbolic link with an empty or over-long target"
    } else if target.starts_with('/') {
        "is a symbolic link to an absolute path"
    } else if target.chars().any(|c| c.is_control() || c == '\\') {
        "is a symbolic link whose target has a control character or backslash"
    } else if target.split('/').count() > DEPTH_MAX {
        "is a symbolic link whose target has too many parts"
    } else {
        return Ok(());
    };
    Err(CodeError::entry(name, problem, hint))
}
