//! The environment of a `lambda` function, as programs written for AWS expect it.
//!
//! Two kinds: what identifies the function, which nothing replaces, and defaults, which the function's
//! own variables do. Credentials are not made up, and `AWS_EXECUTION_ENV` is left out, as AWS leaves it
//! out where a function brings its runtime.
use crate::logs::unix_ms;
use crate::rootfs::TASK_DIR;
use nova_proto::FunctionSetup;

/// Where the runtime's own files are: its bootstrap.
const RUNTIME_DIR: &str = "/var/runtime";
/// The region of a function that sets none; many clients refuse to work without.
const REGION: &str = "us-east-1";
/// Stands for the account in names of resources: there are none here.
pub const ACCOUNT: &str = "000000000000";

/// AWS's search path for programs, with the system's own directories behind it.
const PATH: &str =
    "/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// AWS's search path for libraries.
const LIBRARY_PATH: &str = "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib";

/// The variables of a function whose Runtime API is at `api` (`host:port`).
pub fn variables(function: &FunctionSetup, api: &str) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("AWS_LAMBDA_RUNTIME_API", api.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", function.name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", function.version.clone()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory_mb.to_string()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", function.name)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", log_stream(&function.version, unix_ms())),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("LAMBDA_TASK_ROOT", TASK_DIR.to_owned()),
        ("LAMBDA_RUNTIME_DIR", RUNTIME_DIR.to_owned()),
        ("_HANDLER", function.handler.clone()),
    ];
    if function.instance_concurrency > 1 {
        let concurrency = function.instance_concurrency.to_string();
        variables.push(("AWS_LAMBDA_MAX_CONCURRENCY", concurrency));
    }
    let region = region(function).to_owned();
    let defaults = [
        ("AWS_REGION", region.clone()),
        ("AWS_DEFAULT_REGION", region),
        ("TZ", ":UTC".to_owned()),
        ("PATH", PATH.to_owned()),
        ("LD_LIBRARY_PATH", LIBRARY_PATH.to_owned()),
    ];
    variables.extend(defaults.into_iter().filter(|(name, _)| !function.env.contains_key(*name)));
    variables
}

/// The function's name as a resource of AWS.
pub fn function_arn(function: &FunctionSetup) -> String {
    format!("arn:aws:lambda:{}:{ACCOUNT}:function:{}", region(function), function.name)
}

/// X-Ray's form of a W3C trace context (`00-<32 hex>-<16 hex>-<2 hex>`); `None` for anything else.
pub fn trace_id(traceparent: &str) -> Option<String> {
    let mut parts = traceparent.split('-');
    let (_version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if !is_hex(trace, 32) || !is_hex(parent, 16) || !is_hex(flags, 2) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
    Some(format!("Root=1-{}-{};Parent={parent};Sampled={sampled}", &trace[..8], &trace[8..]))
}

fn region(function: &FunctionSetup) -> &str {
    let own = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| function.env.get(*name));
    own.map_or(REGION, String::as_str)
}

/// `2026/11/23/[7]0123abcd...`: the day, the version, and what tells processes apart.
fn log_stream(version: &str, now_unix_ms: u64) -> String {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let (year, month, day) = date(now_unix_ms / DAY_MS);
    format!("{year:04}/{month:02}/{day:02}/[{version}]{now_unix_ms:032x}")
}

/// The Gregorian date of a day, counted from 1970-01-01. Reckons in years that begin in March, so that
/// the day that leap years add is their last.
fn date(day: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const DAYS_BEFORE_1970: u64 = 719_468;
    let day = day + DAYS_BEFORE_1970;
    let day_of_era = day % DAYS_IN_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = day / DAYS_IN_400_YEARS * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(19_782), (2024, 2, 29));
        assert_eq!(date(19_783), (2024, 3, 1));
        assert_eq!(date(20_454), (2026, 1, 1));
        assert_eq!(log_stream("7", 0), format!("1970/01/01/[7]{}", "0".repeat(32)));
    }

    #[test]
    fn a_trace_context_takes_the_form_of_x_ray() {
        let w3c = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let x_ray = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";
        assert_eq!(trace_id(w3c).as_deref(), Some(x_ray));
        for odd in ["", "00-4bf9-00f0-01", "hello", &w3c.replace('4', "\u{e9}")] {
            assert_eq!(trace_id(odd), None, "{odd}");
        }
    }
}
