//! The routes of the Extensions API.
use super::{JSON, OK, Request, Routed, SMALL_MAX_BYTES};
use crate::lambda::answer::of_error;
use crate::lambda::board::{State, Waited};
use crate::lambda::environment;
use crate::lambda::extensions::Problem;
use crate::lambda::http::{Body, Broken};
use nova_proto::FunctionErrorKind;
use serde_json::json;

impl Request<'_> {
    pub(super) fn register(&mut self) -> Result<Routed, Broken> {
        let Body::Whole(bytes, _) = self.connection.read_body(self.head, SMALL_MAX_BYTES)? else {
            return Ok(self.too_large(SMALL_MAX_BYTES));
        };
        let name = self.head.header("lambda-extension-name");
        let registered = self.board.with_extensions(|extensions| extensions.register(name, &bytes));
        match registered {
            Ok(identifier) => {
                let mut about = json!({
                    "functionName": self.about.name,
                    "functionVersion": self.about.version,
                    "handler": self.about.handler,
                });
                let accepts =
                    self.head.header("lambda-extension-accept-feature").unwrap_or_default();
                if accepts.split(',').any(|feature| feature.trim() == "accountId") {
                    about["accountId"] = environment::ACCOUNT.into();
                }
                let headers = [("Lambda-Extension-Identifier", identifier.as_str())];
                Ok(self.respond(200, JSON, &headers, &about.to_string()))
            }
            Err(problem) => Ok(self.extension_problem(problem)),
        }
    }

    pub(super) fn extension_next(&mut self) -> Result<Routed, Broken> {
        self.read_small()?;
        let identifier = self.head.header("lambda-extension-identifier");
        if let Err(problem) = self.board.with_extensions(|all| all.check(identifier)) {
            return Ok(self.extension_problem(problem));
        }
        let identifier = identifier.unwrap_or_default();
        let look = |state: &mut State| state.extensions.next(identifier);
        match self.board.wait_for(self.connection, self.waker, look) {
            Waited::Got(event) => Ok(self.respond(200, JSON, &[], &event.to_string())),
            Waited::Over => Ok(Routed::Close),
        }
    }

    /// An extension that cannot start is the function's failure; one that ends does so by itself.
    pub(super) fn extension_error(&mut self, at_init: bool) -> Result<Routed, Broken> {
        let identifier = self.head.header("lambda-extension-identifier");
        let checked = self.board.with_extensions(|all| all.check(identifier));
        let Body::Whole(bytes, _) = self.connection.read_body(self.head, SMALL_MAX_BYTES)? else {
            return Ok(self.too_large(SMALL_MAX_BYTES));
        };
        if let Err(problem) = checked {
            return Ok(self.extension_problem(problem));
        }
        if at_init {
            let error_type = self.head.header("lambda-extension-function-error-type");
            let failure = of_error(FunctionErrorKind::FunctionNotStarted, error_type, &bytes);
            if let Err(refused) = self.board.fail_init(failure) {
                return Ok(self.refuse(&refused));
            }
        }
        Ok(self.respond(202, JSON, &[], OK))
    }

    fn extension_problem(&mut self, (error_type, message): Problem) -> Routed {
        self.problem(403, error_type, message)
    }
}
