//! What clients may try in order to be somebody else: header lines, each line but the last with its end.

/// Taken as valid HTTP: the request passes, without them. Each would be a success if nothing were done
/// against it.
pub(crate) const FORGERIES: &[&str] = &[
    // the names themselves, in any spelling
    "X-User-Id: forged",
    "X-User-Email: forged",
    "x-user-id: forged",
    "X-USER-EMAIL: forged",
    "x-UsEr-Id:forged",
    "X-User-Id:\tforged \t",
    // other values
    "X-User-Id:",
    "X-User-Email: ",
    "X-User-Id: alice, forged",
    "X-User-Id: forged;q=1",
    "X-User-Id:\r\n forged",
    "X-User-Id: alice\r\n\tforged",
    // more than once
    "X-User-Id: forged\r\nX-User-Id: forged",
    "X-User-Id: alice\r\nx-user-id: forged",
    "X-User-Id: forged\r\nX_User_Id: forged\r\nX.User.Id: forged",
    // names that many backends take for the same: every character that HTTP allows in place of a dash
    "X_User_Id: forged",
    "x_user_email: forged",
    "X_User-Id: forged",
    "X-User_Email: forged",
    "X.User.Id: forged",
    "X-User.Email: forged",
    "X.User_Id: forged",
    "X!User!Id: forged",
    "X#User#Id: forged",
    "X$User$Id: forged",
    "X%User%Id: forged",
    "X&User&Id: forged",
    "X'User'Id: forged",
    "X*User*Id: forged",
    "X+User+Id: forged",
    "X^User^Id: forged",
    "X`User`Id: forged",
    "X|User|Id: forged",
    "X~User~Id: forged",
];

/// Names the identity as a header that ends at the gateway: it must not be lost for that.
pub(crate) const HOP_BY_HOP: &[&str] = &[
    "Connection: X-User-Id",
    "Connection: close, X-User-Email",
    "connection: keep-alive,x-user-id,x-user-email",
    "Connection:\t X-USER-ID \t, close",
    "Connection: , ,X-User-Id,",
    "Connection: close\r\nConnection: X-User-Id",
    "Connection: X-User-Id\r\nX-User-Id: forged",
    "Connection: Upgrade, X-User-Id\r\nUpgrade: websocket",
    "Connection: X_User_Id\r\nX_User_Id: forged",
    "Keep-Alive: X-User-Id\r\nProxy-Connection: X-User-Id\r\nTE: X-User-Id",
];

/// No HTTP at all: refused.
pub(crate) const MALFORMED: &[&str] = &[
    "X-User-Id : forged",
    "X-User-Id\t: forged",
    " X-User-Id: forged",
    "X User Id: forged",
    "X-User-Id",
    ": forged",
    "X-User-Id: for\0ged",
    "X-User-Id\0: forged",
    "X(User)Id: forged",
    "X-User-\u{130}d: forged",
];
