//! Signing up, logging in and out, a new password, and the gateway's question whose token this is.
//!
//! A login tells nothing of whether there is an account: same answers, same statements, a hash in any case, and the same
//! throttling. Signing up does tell, with its 409, as it must where nobody is written to. Fields that nobody knows are
//! ignored. Left out: forgotten passwords, a list of sessions, deleting an account.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use chassis::database::violated_constraint;
use chassis::identity::{Identity, USER_EMAIL_HEADER, USER_ID_HEADER};
use chassis::metrics::{Metrics, Outcomes};
use chassis::problem::{Json, Problem};
use chassis::telemetry::Statement;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use shared_events::UserId;
use sqlx::PgPool;
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

/// What the handlers need. They share it: a copy for each request would be one of the keys, too.
pub struct Accounts {
    /// The users' database.
    pub pool: PgPool,
    /// Hashes and verifies.
    pub passwords: Passwords,
    /// How many characters a new password has at least.
    pub password_min_chars: usize,
    /// Makes and verifies tokens.
    pub tokens: Tokens,
    /// Which of them no longer count.
    pub revocations: Revocations,
    /// Counts wrong passwords.
    pub attempts: Attempts,
    /// What is counted of all this.
    pub figures: Figures,
}

/// What became of logins and of tokens that were to be checked.
pub struct Figures {
    logins: Outcomes,
    token_checks: Outcomes,
}

impl Figures {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            logins: metrics.outcomes(
                "agora_logins",
                "Logins, by what became of them",
                &["ok", "wrong", "throttled"],
            ),
            token_checks: metrics.outcomes(
                "agora_token_checks",
                "Tokens that were checked, by what was found",
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

/// A person's name: something to be seen, and nothing that changes how the text around it is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(String);

/// A field that can't be accepted; the text says what would be.
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

/// Whether a character isn't shown itself, but says how others are: controls, breaks of lines, and Unicode's format
/// characters, which reverse text or hide in it. The joiners are among them, although some scripts spell with them: who
/// may stand where (RFC 5892, appendix A) is left out.
fn shapes_text(character: char) -> bool {
    matches!(
        character.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// Whether a character shows nothing: white space, what Unicode calls default ignorable (`DerivedCoreProperties.txt`; of
/// those only what doesn't [shape text](shapes_text) anyway), and the Braille pattern without a dot.
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

/// What [`shapes_text`] is true for, up to U+FFFF, inside a regular expression's brackets. Beyond it no spelling means the
/// same in every dialect.
const SHAPES_TEXT: &str = r"\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb";
/// White space, likewise, as `\s` isn't the same in every dialect.
const WHITE_SPACE: &str = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";
/// What [`is_blank`] is true for besides, likewise.
const OTHER_BLANKS: &str = r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8";

#[derive(Deserialize, ToSchema)]
struct SignUp {
    /// Something visible, and no control or format character (Unicode's categories Cc, Cf, Zl, Zp).
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    #[schema(max_length = 254)]
    email: String,
    /// At most 72 bytes in UTF-8. Lengths are those after normalisation (RFC 8265, OpaqueString: any space is U+0020, NFC).
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
    /// At most 72 bytes in UTF-8. Lengths are those after normalisation (RFC 8265, OpaqueString: any space is U+0020, NFC).
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

/// What hashes: `POST /auth/signup`, `/auth/login`, and `PUT /users/me/password`.
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

/// Says in the document what no literal of an attribute can: bounds that are made of others, or set.
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

/// `GET /auth/verify`, for the gateway alone: in no document, as no client can ask it.
pub fn verify_router(accounts: Arc<Accounts>) -> OpenApiRouter {
    OpenApiRouter::new()
        .route("/auth/verify", get(verify))
        .with_state(accounts)
}

/// Makes an account.
#[utoipa::path(
    post, path = "/auth/signup", tag = "accounts", security(()), request_body = SignUp,
    responses(
        (status = 201, description = "Signed up.", body = SignedUp),
        (status = 409, description = "`email-taken`: there is an account with this e-mail address"),
    )
)]
async fn sign_up(
    State(accounts): State<Arc<Accounts>>,
    Json(asked): Json<SignUp>,
) -> Result<(StatusCode, axum::Json<SignedUp>), Problem> {
    let Name(name) = Name::parse(&asked.name).map_err(|e| Problem::invalid(e.to_string()))?;
    let Email(email) = Email::parse(&asked.email).map_err(|e| Problem::invalid(e.to_string()))?;
    let password = accounts.new_password(&asked.password)?;
    let password_hash = accounts.passwords.turn().await?.hash(password).await?;
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
                "there is an account with this e-mail address",
            ),
            _ => error.into(),
        })?;
    info!(user_id = %id, "signed up");
    Ok((
        StatusCode::CREATED,
        axum::Json(SignedUp { id, name, email }),
    ))
}

/// Gives a token for an address and a password.
#[utoipa::path(
    post, path = "/auth/login", tag = "accounts", security(()), request_body = LogIn,
    responses(
        (status = 200, description = "Logged in.", body = LoggedIn),
        (status = 401, description = "`wrong-credentials`: no account has this e-mail address and password"),
        (status = 429, description = "`too-many-attempts`: too many wrong passwords for this address"),
    )
)]
async fn log_in(
    State(accounts): State<Arc<Accounts>>,
    Json(asked): Json<LogIn>,
) -> Result<axum::Json<LoggedIn>, Problem> {
    let answer = try_to_log_in(&accounts, asked).await;
    let outcome = match &answer {
        Ok(_) => Some("ok"),
        Err(problem) => match problem.status() {
            StatusCode::UNAUTHORIZED => Some("wrong"),
            StatusCode::TOO_MANY_REQUESTS => Some("throttled"),
            // Neither let in nor refused: the requests' own figures have it.
            _ => None,
        },
    };
    if let Some(outcome) = outcome {
        accounts.figures.logins.count(outcome);
    }
    answer
}

async fn try_to_log_in(accounts: &Accounts, asked: LogIn) -> Result<axum::Json<LoggedIn>, Problem> {
    let address = Account::of(&asked.email);
    accounts.attempts.admit(address).await?;
    // What can't be an address has no account; it takes the same way through as one that could be.
    let email = Email::parse(&asked.email).map_or_else(|_| String::new(), |Email(email)| email);
    let account: Option<(Uuid, String, String, i64)> = sqlx::query_as(
        "SELECT id, email, password_hash, token_generation FROM users WHERE email = $1",
    )
    .bind(email)
    .fetch_optional(&accounts.pool)
    .traced("SELECT users")
    .await?;
    let hash = account.as_ref().map(|(_, _, hash, _)| hash.clone());
    let right = accounts.settle(address, asked.password, hash).await?;
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

/// Revokes the token that the request carries, and no other. At the replica that answers it is refused from then on, at
/// the others within 2 s.
#[utoipa::path(
    post, path = "/auth/logout", tag = "accounts",
    responses((status = 204, description = "Logged out."))
)]
async fn log_out(
    State(accounts): State<Arc<Accounts>>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    // The token itself, not the gateway's word on whose it is: which one is to be revoked only it can say.
    let claims = accounts.check(&headers)?;
    accounts.revocations.revoke(&claims).await?;
    info!(user_id = %claims.sub, "logged out");
    Ok(StatusCode::NO_CONTENT)
}

/// Stores a new password and revokes all of the user's tokens, also the one that this is asked with. Whoever has found a
/// token still has to know the password, and is throttled like somebody who guesses at the login.
#[utoipa::path(
    put, path = "/users/me/password", tag = "accounts", request_body = ChangePassword,
    responses(
        (status = 204, description = "Changed."),
        (status = 403, description = "`wrong-password`: this is not the current password"),
        (status = 404, description = "`not-found`: the account is gone"),
        (status = 409, description = "`password-changed`: somebody else changed it at the same time"),
        (status = 429, description = "`too-many-attempts`: too many wrong passwords"),
    )
)]
async fn change_password(
    State(accounts): State<Arc<Accounts>>,
    Identity { user_id, .. }: Identity,
    Json(asked): Json<ChangePassword>,
) -> Result<StatusCode, Problem> {
    let new = accounts.new_password(&asked.new_password)?;
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
        .settle(account, asked.current_password, Some(old_hash.clone()))
        .await?;
    if !right {
        // Not 401: the token is good, and a client must not take it for lost.
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "wrong-password",
            "this is not the current password",
        ));
    }
    let new_hash = accounts.passwords.turn().await?.hash(new).await?;
    let changed = accounts
        .revocations
        .change_password(user_id, &old_hash, &new_hash)
        .await?;
    if !changed {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "password-changed",
            "the password was changed by somebody else at the same time",
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

    /// Whether the password of an attempt that was admitted is right; the attempt is counted.
    ///
    /// Who goes away, or has too little time, while it waits for its turn has cost nothing. From then on the hash and the
    /// count are a task of their own, which doesn't end with the request: or guesses could be made that nobody counts.
    async fn settle(
        &self,
        account: Account,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        let turn = self.passwords.turn().await?;
        let attempts = self.attempts.clone();
        let settled = async move {
            let right = turn.verify(password, hash).await?;
            attempts.settle(account, right).await?;
            Ok(right)
        };
        let settled = tokio::spawn(settled.in_current_span());
        settled.await.unwrap_or_else(|failed| {
            error!(error = %failed, "an attempt could not be settled");
            Err(Problem::internal())
        })
    }

    /// What the request's token says, if it counts; 401 otherwise, without a word on why. Asks nobody.
    fn check(&self, headers: &HeaderMap) -> Result<Claims, Problem> {
        let Some(token) = bearer(headers) else {
            return Err(self.refuse("absent", "a bearer token is needed"));
        };
        let outcome = match self.tokens.verify(token) {
            Ok(claims) if !self.revocations.is_revoked(&claims) => {
                self.figures.token_checks.count("ok");
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
        self.figures.token_checks.count(outcome);
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
    fn what_is_no_address_is_refused() {
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
    fn a_name_is_not_blank_and_bounded() {
        assert!(Name::parse("Ada Lovelace").is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_shows_something_and_hides_nothing() {
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
    fn the_document_and_the_service_accept_the_same() {
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
