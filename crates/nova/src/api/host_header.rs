//! Which `Host` a request may name. A page in a browser can point a name of its own at 127.0.0.1 (DNS
//! rebinding) and would then talk to the daemon; it cannot make the browser send another `Host`.
use super::problem::{ErrorCode, Problem};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The names that are this daemon.
#[derive(Debug, Clone)]
pub struct AllowedHosts {
    listen: IpAddr,
    names: Vec<String>,
}

impl AllowedHosts {
    /// Loopback, the address that is listened on, and the names from the configuration.
    pub fn new(listen: SocketAddr, names: Vec<String>) -> Self {
        let names = names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { listen: listen.ip(), names }
    }

    fn allows(&self, authority: &str) -> bool {
        let host = without_port(authority);
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            // Listening on every address: any of them is this host, and an address is not a name
            // that could be rebound.
            Ok(address) => {
                address.is_loopback() || address == self.listen || self.listen.is_unspecified()
            }
            Err(_) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host == "localhost" || host.ends_with(".localhost") || self.names.contains(&host)
            }
        }
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => host,
        _ => authority,
    }
}

/// The layer over all routes.
pub async fn check(
    State(allowed): State<Arc<AllowedHosts>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers().get_all(header::HOST).iter();
    let headers = headers.map(|value| value.to_str().unwrap_or(""));
    let target = request.uri().authority().map(|authority| authority.as_str());
    let named: Vec<&str> = headers.chain(target).collect();
    if !named.is_empty() && named.iter().all(|authority| allowed.allows(authority)) {
        return next.run(request).await;
    }
    let detail = match named.first() {
        None => "send a Host header".to_owned(),
        Some(_) => "the Host header does not name this daemon; \
                    add the name to `allowed_hosts` in its configuration"
            .to_owned(),
    };
    Problem::new(ErrorCode::HostNotAllowed, detail).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(listen: &str, host: &str) -> bool {
        let names = vec!["Nova.example.org".to_owned()];
        AllowedHosts::new(listen.parse().unwrap(), names).allows(host)
    }

    #[test]
    fn loopback_the_listen_address_and_configured_names_are_allowed() {
        for host in ["localhost:9000", "127.0.0.1:9000", "127.0.0.1", "[::1]:9000", "LOCALHOST"] {
            assert!(allowed("10.0.0.5:9000", host), "{host}");
        }
        assert!(allowed("10.0.0.5:9000", "10.0.0.5:9000"));
        assert!(allowed("10.0.0.5:9000", "nova.example.org"));
        assert!(allowed("0.0.0.0:9000", "192.0.2.7:9000"));
    }

    #[test]
    fn a_name_that_was_rebound_is_not() {
        for host in ["evil.example", "evil.example:9000", "127.0.0.1.evil.example", "", "10.0.0.6"]
        {
            assert!(!allowed("10.0.0.5:9000", host), "{host}");
        }
        assert!(!allowed("0.0.0.0:9000", "evil.example"));
    }
}
