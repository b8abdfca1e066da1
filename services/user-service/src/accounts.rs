//! Sign-up, login, logout, password changes, and token verification for the gateway.
//!
//! A login does not reveal whether an account exists: both cases give the same answers, run the same statements, compute
//! a hash and are throttled alike. Sign-up does reveal it, with its 409, because no e-mail is sent. Unknown fields are
//! ignored. Left out: password recovery, a list of sessions, account deletion.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use chassis::database::violated_constraint;
use chassis::identity::{Identity, USER_EMAIL_HEADER, USER_ID_HEADER};
use chassis::metrics::{Metrics, Outcomes};
use chassis::pool::Pool;
use chassis::problem::{Json, Problem};
use chassis::telemetry::Statement;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use shared_events::UserId;
use tracing::{Instrument, debug, error, info};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::attempts::{Account, Attempts};
use crate::passwords::{Password, Passwords};
use crate::revocations::Revocations;
use crate::tokens::{Claims, InvalidToken, Tokens};

/// What the handlers need. It is shared: a copy per request would also copy the keys.
pub struct Accounts {
    /// The users' database.
    pub pool: Pool,
    /// Hashes and verifies.
    pub passwords: Passwords,
    /// The minimum length of a new password.
    pub password_min_chars: usize,
    /// Issues and verifies tokens.
    pub tokens: Tokens,
    /// The tokens that are revoked before they expire.
    pub revocations: Revocations,
    /// Counts failed password attempts.
    pub attempts: Attempts,
    /// Counters of logins and token checks.
    pub metrics: AccountMetrics,
}

/// Counters of logins and token checks, by outcome.
pub struct AccountMetrics {
    logins: Outcomes,
    token_checks: Outcomes,
}

impl AccountMetrics {
    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            logins: metrics.outcomes(
                "agora_logins",
                "Logins, by outcome",
                &["ok", "wrong", "throttled"],
            ),
            token_checks: metrics.outcomes(
                "agora_token_checks",
                "Token checks, by outcome",
                &[
                    "ok",
                    "absent",
                    "expired",
                    "unknown_key",
                    "forged",
                    "revoked",
                ],
            ),
        }
    }
}

/// An e-mail address as it is stored and compared: lower case, printable ASCII, so that it fits a header.
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

/// A person's name: it has a visible character, and none that changes how the text around it is displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(String);

/// A field that can't be accepted; the text states the requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    /// Not an address.
    #[error("an e-mail address looks like name@example.com and has at most {max} characters", max = Email::MAX_CHARS)]
    Email,
    /// Not a name.
    #[error(
        "a name has 1 to {max} characters, one of them visible and none of them a control or format character",
        max = Name::MAX_CHARS
    )]
    Name,
}

impl Email {
    const MAX_CHARS: usize = 254;

    /// Checks and normalises.
    ///
    /// # Errors
    /// [`InvalidField::Email`].
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        let bounded = text.chars().count() <= Self::MAX_CHARS;
        let text = text.trim();
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        let complete = text.split_once('@').is_some_and(|(name, domain)| {
            let labels = domain.split('.');
            !name.is_empty()
                && !domain.contains('@')
                && labels.clone().count() > 1
                && labels.into_iter().all(|label| !label.is_empty())
        });
        if !bounded || !printable || !complete {
            return Err(InvalidField::Email);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl Name {
    const MAX_CHARS: usize = 100;

    /// Checks and trims.
    ///
    /// # Errors
    /// [`InvalidField::Name`].
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        let bounded = text.chars().count() <= Self::MAX_CHARS;
        if !bounded || text.chars().any(shapes_text) || text.chars().all(is_blank) {
            return Err(InvalidField::Name);
        }
        Ok(Self(text.trim().to_owned()))
    }
}

/// Whether a character is invisible but changes how others are displayed: controls, line breaks, and Unicode's format
/// characters, which can reverse or hide text. The joiners are among them, although some scripts need them. Left out:
/// the context rules for joiners (RFC 5892, appendix A).
fn shapes_text(character: char) -> bool {
    matches!(
        character.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// Whether a character is invisible: white space, Unicode's default ignorable code points (`DerivedCoreProperties.txt`;
/// only those that [`shapes_text`] doesn't cover), and the Braille pattern without a dot.
fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || matches!(
            character,
            '\u{34f}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{2065}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fff8}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Addresses stay out of logs.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email")
    }
}

/// What [`shapes_text`] matches, up to U+FFFF, as the inside of a regular expression's brackets. No notation for code
/// points beyond it means the same in every dialect.
const SHAPES_TEXT: &str = r"\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb";
/// White space in the same notation: `\s` isn't the same in every dialect.
const WHITE_SPACE: &str = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";
/// The other characters that [`is_blank`] matches, in the same notation.
const OTHER_BLANKS: &str = r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8";

#[derive(Deserialize, ToSchema)]
struct SignUp {
    /// At least one visible character; no control or format character (Unicode categories Cc, Cf, Zl, Zp).
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    #[schema(max_length = 254)]
    email: String,
    /// At most 72 bytes in UTF-8. Lengths apply after normalisation (RFC 8265, OpaqueString: any space is U+0020, NFC).
    #[schema(value_type = String, format = Password, max_length = 72, pattern = r"^[^\x00]*$")]
    password: SecretString,
}

#[derive(Deserialize, ToSchema)]
struct LogIn {
    email: String,
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

#[derive(Deserialize, ToSchema)]
struct ChangePassword {
    #[schema(value_type = String, format = Password)]
    current_password: SecretString,
    /// At most 72 bytes in UTF-8. Lengths apply after normalisation (RFC 8265, OpaqueString: any space is U+0020, NFC).
    #[schema(value_type = String, format = Password, max_length = 72, pattern = r"^[^\x00]*$")]
    new_password: SecretString,
}

#[derive(Serialize, ToSchema)]
struct SignedUp {
    id: UserId,
    name: String,
    email: String,
}

/// RFC 6749, section 5.1.
#[derive(Serialize, ToSchema)]
struct LoggedIn {
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
}

/// The routes that compute a hash: `POST /auth/signup`, `/auth/login`, and `PUT /users/me/password`.
pub fn passwords_router(accounts: Arc<Accounts>) -> OpenApiRouter {
    let mut router = OpenApiRouter::new()
        .routes(routes!(sign_up))
        .routes(routes!(log_in))
        .routes(routes!(change_password));
    document_bounds(router.get_openapi_mut(), accounts.password_min_chars);
    router.with_state(accounts)
}

fn name_pattern() -> String {
    let any = format!("[^{SHAPES_TEXT}]*");
    format!("^{any}[^{SHAPES_TEXT}{WHITE_SPACE}{OTHER_BLANKS}]{any}$")
}

fn email_pattern() -> String {
    let blank = format!("[{WHITE_SPACE}]*");
    format!(r"^{blank}[!-?A-~]+@[!-\-/-?A-~]+(\.[!-\-/-?A-~]+)+{blank}$")
}

/// Adds to the document the bounds that no attribute's literal can express: they are composed, or configured.
fn document_bounds(document: &mut OpenApi, password_min_chars: usize) {
    if let Some(name) = field(document, "SignUp", "name") {
        name.pattern = Some(name_pattern());
    }
    if let Some(email) = field(document, "SignUp", "email") {
        email.pattern = Some(email_pattern());
    }
    for (schema, password) in [("SignUp", "password"), ("ChangePassword", "new_password")] {
        if let Some(password) = field(document, schema, password) {
            password.min_length = Some(password_min_chars);
        }
    }
}

fn field<'a>(document: &'a mut OpenApi, schema: &str, field: &str) -> Option<&'a mut Object> {
    let schema = document.components.as_mut()?.schemas.get_mut(schema)?;
    let RefOr::T(Schema::Object(schema)) = schema else {
        return None;
    };
    match schema.properties.get_mut(field)? {
        RefOr::T(Schema::Object(field)) => Some(field),
        _ => None,
    }
}

/// `POST /auth/logout`.
pub fn log_out_router(accounts: Arc<Accounts>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(log_out))
        .with_state(accounts)
}

/// `GET /auth/verify`, for the gateway only. It is in no document because clients can't reach it.
pub fn verify_router(accounts: Arc<Accounts>) -> OpenApiRouter {
    OpenApiRouter::new()
        .route("/auth/verify", get(verify))
        .with_state(accounts)
}

/// Create an account
#[utoipa::path(
    post, path = "/auth/signup", tag = "accounts", security(()), request_body = SignUp,
    responses(
        (status = 201, description = "The account was created.", body = SignedUp),
        (status = 409, description = "`email-taken`: an account with this e-mail address exists"),
    )
)]
async fn sign_up(
    State(accounts): State<Arc<Accounts>>,
    Json(request): Json<SignUp>,
) -> Result<(StatusCode, axum::Json<SignedUp>), Problem> {
    let Name(name) = Name::parse(&request.name).map_err(|e| Problem::invalid(e.to_string()))?;
    let Email(email) = Email::parse(&request.email).map_err(|e| Problem::invalid(e.to_string()))?;
    let password = accounts.new_password(&request.password)?;
    let password_hash = accounts.passwords.permit().await?.hash(password).await?;
    let id = UserId::generate();
    sqlx::query("INSERT INTO users (id, name, email, password_hash) VALUES ($1, $2, $3, $4)")
        .bind(id.0)
        .bind(&name)
        .bind(&email)
        .bind(password_hash)
        .execute(&accounts.pool)
        .traced("INSERT users")
        .await
        .map_err(|error| match violated_constraint(&error) {
            Some("users_email_key") => Problem::new(
                StatusCode::CONFLICT,
                "email-taken",
                "an account with this e-mail address exists",
            ),
            _ => error.into(),
        })?;
    info!(user_id = %id, "signed up");
    Ok((
        StatusCode::CREATED,
        axum::Json(SignedUp { id, name, email }),
    ))
}

/// Log in
///
/// Issues an access token for an e-mail address and a password.
#[utoipa::path(
    post, path = "/auth/login", tag = "accounts", security(()), request_body = LogIn,
    responses(
        (status = 200, description = "The access token.", body = LoggedIn),
        (status = 401, description = "`wrong-credentials`: no account has this e-mail address and password"),
        (status = 429, description = "`too-many-attempts`: too many wrong passwords for this address"),
    )
)]
async fn log_in(
    State(accounts): State<Arc<Accounts>>,
    Json(request): Json<LogIn>,
) -> Result<axum::Json<LoggedIn>, Problem> {
    let answer = try_to_log_in(&accounts, request).await;
    let outcome = match &answer {
        Ok(_) => Some("ok"),
        Err(problem) => match problem.status() {
            StatusCode::UNAUTHORIZED => Some("wrong"),
            StatusCode::TOO_MANY_REQUESTS => Some("throttled"),
            // Neither accepted nor refused: counted by the request metrics.
            _ => None,
        },
    };
    if let Some(outcome) = outcome {
        accounts.metrics.logins.count(outcome);
    }
    answer
}

async fn try_to_log_in(
    accounts: &Accounts,
    request: LogIn,
) -> Result<axum::Json<LoggedIn>, Problem> {
    let address = Account::of(&request.email);
    accounts.attempts.admit(address).await?;
    // A string that can't be an address has no account; it takes the same path as one that can.
    let email = Email::parse(&request.email).map_or_else(|_| String::new(), |Email(email)| email);
    let account: Option<(Uuid, String, String, i64)> = sqlx::query_as(
        "SELECT id, email, password_hash, token_generation FROM users WHERE email = $1",
    )
    .bind(email)
    .fetch_optional(&accounts.pool)
    .traced("SELECT users")
    .await?;
    let hash = account.as_ref().map(|(_, _, hash, _)| hash.clone());
    let right = accounts.settle(address, request.password, hash).await?;
    let Some((id, email, _, generation)) = account.filter(|_| right) else {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "wrong-credentials",
            "no account has this e-mail address and password",
        ));
    };
    let access_token = accounts
        .tokens
        .issue(UserId(id), &email, generation)
        .map_err(|error| {
            error!(%error, "signing a token failed");
            Problem::internal()
        })?;
    Ok(axum::Json(LoggedIn {
        access_token,
        token_type: "Bearer",
        expires_in: accounts.tokens.time_to_live().as_secs(),
    }))
}

/// Log out
///
/// Revokes the token of this request and no other. The replica that answers refuses it immediately, all others within
/// 2 s.
#[utoipa::path(
    post, path = "/auth/logout", tag = "accounts",
    responses((status = 204, description = "The token is revoked."))
)]
async fn log_out(
    State(accounts): State<Arc<Accounts>>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    // The token itself and not the identity headers: only the token identifies which one to revoke.
    let claims = accounts.check(&headers)?;
    accounts.revocations.revoke(&claims).await?;
    info!(user_id = %claims.sub, "logged out");
    Ok(StatusCode::NO_CONTENT)
}

/// Change the password
///
/// Revokes all tokens of the user, including the one of this request. The current password is required, so that a stolen
/// token is not enough; wrong ones are throttled as at login.
#[utoipa::path(
    put, path = "/users/me/password", tag = "accounts", request_body = ChangePassword,
    responses(
        (status = 204, description = "The password was changed."),
        (status = 403, description = "`wrong-password`: this is not the current password"),
        (status = 404, description = "`not-found`: the account no longer exists"),
        (status = 409, description = "`password-changed`: another request changed it at the same time"),
        (status = 429, description = "`too-many-attempts`: too many wrong passwords"),
    )
)]
async fn change_password(
    State(accounts): State<Arc<Accounts>>,
    Identity { user_id, .. }: Identity,
    Json(request): Json<ChangePassword>,
) -> Result<StatusCode, Problem> {
    let new = accounts.new_password(&request.new_password)?;
    let old_hash: Option<String> =
        sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1")
            .bind(user_id.0)
            .fetch_optional(&accounts.pool)
            .traced("SELECT users")
            .await?;
    let old_hash = old_hash.ok_or_else(|| Problem::not_found("there is no such user"))?;
    let account = Account::of_user(user_id);
    accounts.attempts.admit(account).await?;
    let right = accounts
        .settle(account, request.current_password, Some(old_hash.clone()))
        .await?;
    if !right {
        // Not 401: the token is valid, and a client must not discard it.
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "wrong-password",
            "this is not the current password",
        ));
    }
    let new_hash = accounts.passwords.permit().await?.hash(new).await?;
    let changed = accounts
        .revocations
        .change_password(user_id, &old_hash, &new_hash)
        .await?;
    if !changed {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "password-changed",
            "the password was changed by another request at the same time",
        ));
    }
    info!(%user_id, "password changed, tokens revoked");
    Ok(StatusCode::NO_CONTENT)
}

/// For ForwardAuth: 200 with the identity headers, or 401.
async fn verify(
    State(accounts): State<Arc<Accounts>>,
    headers: HeaderMap,
) -> Result<[(&'static str, String); 2], Problem> {
    let claims = accounts.check(&headers)?;
    Ok([
        (USER_ID_HEADER, claims.sub.to_string()),
        (USER_EMAIL_HEADER, claims.email),
    ])
}

impl Accounts {
    fn new_password(&self, text: &SecretString) -> Result<Password, Problem> {
        Password::parse(text.expose_secret(), self.password_min_chars)
            .map_err(|error| Problem::invalid(error.to_string()))
    }

    /// Verifies the password of an admitted attempt, and counts the attempt.
    ///
    /// A client that disconnects, or runs out of time, while it waits for a permit costs no hash. After that, the hash and
    /// the count run in a task of their own that outlives the request: otherwise guesses would go uncounted.
    async fn settle(
        &self,
        account: Account,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        let permit = self.passwords.permit().await?;
        let attempts = self.attempts.clone();
        let settled = async move {
            let right = permit.verify(password, hash).await?;
            attempts.settle(account, right).await?;
            Ok(right)
        };
        let settled = tokio::spawn(settled.in_current_span());
        settled.await.unwrap_or_else(|failed| {
            error!(error = %failed, "failed to settle a password attempt");
            Err(Problem::internal())
        })
    }

    /// The claims of the request's token if it is valid; otherwise 401 without a reason. Makes no remote call.
    fn check(&self, headers: &HeaderMap) -> Result<Claims, Problem> {
        let Some(token) = bearer(headers) else {
            return Err(self.refuse("absent", "a bearer token is needed"));
        };
        let outcome = match self.tokens.verify(token) {
            Ok(claims) if !self.revocations.is_revoked(&claims) => {
                self.metrics.token_checks.count("ok");
                return Ok(claims);
            }
            Ok(_) => "revoked",
            Err(InvalidToken::Expired) => "expired",
            Err(InvalidToken::UnknownKey) => "unknown_key",
            Err(InvalidToken::Refused(reason)) => {
                debug!(%reason, "token refused");
                "forged"
            }
        };
        Err(self.refuse(outcome, "the token is not valid, or no longer"))
    }

    fn refuse(&self, outcome: &'static str, detail: &str) -> Problem {
        self.metrics.token_checks.count(outcome);
        Problem::new(StatusCode::UNAUTHORIZED, "invalid-token", detail)
    }
}

/// The token of the one `Authorization: Bearer …` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_normalised() {
        assert_eq!(
            Email::parse(" Ada@Example.COM ").unwrap().0,
            "ada@example.com"
        );
    }

    #[test]
    fn an_invalid_address_is_refused() {
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example",
            "ada@.com",
            "a@b@c.de",
            "a d@e.fg",
            "ada@exämple.com",
            "ada@example.com\r\nX-User-Id: 1",
        ] {
            assert_eq!(Email::parse(bad), Err(InvalidField::Email), "{bad:?}");
        }
        assert!(Email::parse(&format!("{}@example.com", "x".repeat(250))).is_err());
    }

    #[test]
    fn a_name_is_not_blank_and_its_length_is_limited() {
        assert!(Name::parse("Ada Lovelace").is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_has_visible_characters_and_no_hidden_ones() {
        for good in [
            "Zo\u{eb}",
            "Zoe\u{308}",
            "\u{5d3}\u{5d5}\u{5d3}",
            "\u{674e}",
            "\u{845b}\u{e0100}",
            "\u{2764}\u{fe0f}",
            "\u{1f980}",
        ] {
            assert!(Name::parse(good).is_ok(), "{good:?}");
        }
        for invisible in [
            "\u{200b}",
            " \u{200b}\u{2060} ",
            "\u{3164}",
            "\u{115f}\u{1160}",
            "\u{2800}",
            "\u{34f}",
            "\u{fe0f}",
            "\u{ffa0}",
            "\u{e0100}",
            "\u{3000}\u{a0}",
        ] {
            assert!(Name::parse(invisible).is_err(), "{invisible:?}");
        }
        for hidden in [
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{202e}',
            '\u{2066}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            for name in [
                format!("Ada{hidden}Eve"),
                format!("{hidden}Ada"),
                format!("Ada{hidden}"),
            ] {
                assert!(Name::parse(&name).is_err(), "{name:?}");
            }
        }
    }

    #[test]
    fn the_patterns_in_the_document_accept_what_the_service_accepts() {
        let [name, email] = [name_pattern(), email_pattern()]
            .map(|pattern| regex::Regex::new(&pattern).expect("a pattern"));
        for character in '\0'..='\u{ffff}' {
            for text in [
                character.to_string(),
                format!("Ada{character}"),
                format!("{character}Ada"),
            ] {
                let accepted = Name::parse(&text).is_ok();
                assert_eq!(name.is_match(&text), accepted, "{text:?}");
            }
            for text in [
                format!("ada@example.com{character}"),
                format!("{character}ada@example.com"),
                format!("ada@example{character}.com"),
            ] {
                let accepted = Email::parse(&text).is_ok();
                assert_eq!(email.is_match(&text), accepted, "{text:?}");
            }
        }
    }
}
