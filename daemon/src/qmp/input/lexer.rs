//! Cuts bytes into tokens, one byte at a time.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of `{}[]:,`.
    Mark(u8),
    /// With its quotes and escapes.
    String,
    Integer,
    Fraction,
    /// Small letters, of which some make no sense.
    Keyword,
    /// No token: up to the first byte that cannot go on.
    Stray,
}

/// Where in a token the last byte was.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Between,
    /// After a stray byte: what may belong to it is skipped.
    Recovering,
    String {
        quote: u8,
        escaped: bool,
    },
    Sign,
    Zero,
    Digits,
    Point,
    Decimals,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
}

/// What a byte means to the token before it.
enum Step {
    /// It belongs to the token.
    Into(State),
    /// It is the token's last.
    Last(Kind),
    /// The token ended before it.
    After(Kind),
    /// There is no token, and it is none.
    Skip,
    /// There is no token, and the byte is to be looked at again.
    Again,
}

/// The lexer: a token that has not come to its end.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    token: Vec<u8>,
}

impl Lexer {
    /// Looks at one byte. Whether that is taken, and the token that is complete; [`clear`](Self::clear) follows one.
    pub(super) fn look(&mut self, byte: u8) -> (bool, Option<Kind>) {
        match step(self.state, byte) {
            Step::Into(state) => {
                self.state = state;
                self.token.push(byte);
                (true, None)
            }
            Step::Last(kind) => {
                self.token.push(byte);
                self.state = if kind == Kind::Stray {
                    State::Recovering
                } else {
                    State::Between
                };
                (true, Some(kind))
            }
            Step::After(kind) => {
                self.state = State::Between;
                (false, Some(kind))
            }
            Step::Skip => (true, None),
            Step::Again => {
                self.state = State::Between;
                (false, None)
            }
        }
    }

    /// The bytes of the token so far.
    pub(super) fn token(&self) -> &[u8] {
        &self.token
    }

    /// Forgets a complete token.
    pub(super) fn clear(&mut self) {
        self.token.clear();
    }

    /// Gives the token up, and skips what belongs to it.
    pub(super) fn give_up(&mut self) {
        self.state = State::Recovering;
        self.token.clear();
    }
}

fn step(state: State, byte: u8) -> Step {
    use State::{
        Between, Decimals, Digits, Exponent, ExponentDigits, ExponentSign, Keyword, Point,
        Recovering, Sign, Zero,
    };
    match (state, byte) {
        (Between, b' ' | b'\t' | b'\r' | b'\n') => Step::Skip,
        (Between, b'{' | b'}' | b'[' | b']' | b':' | b',') => Step::Last(Kind::Mark(byte)),
        (Between, b'"' | b'\'') => Step::Into(State::String {
            quote: byte,
            escaped: false,
        }),
        (Between, b'-') => Step::Into(Sign),
        (Between | Sign, b'0') => Step::Into(Zero),
        (Between | Sign, b'1'..=b'9') | (Digits, b'0'..=b'9') => Step::Into(Digits),
        (Between | Keyword, b'a'..=b'z') => Step::Into(Keyword),
        (Keyword, _) => Step::After(Kind::Keyword),

        (Zero | Digits, b'.') => Step::Into(Point),
        (Zero | Digits | Decimals, b'e' | b'E') => Step::Into(Exponent),
        (Digits, _) => Step::After(Kind::Integer),
        (Zero, other) if !other.is_ascii_digit() => Step::After(Kind::Integer),
        (Point | Decimals, b'0'..=b'9') => Step::Into(Decimals),
        (Exponent, b'+' | b'-') => Step::Into(ExponentSign),
        (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => Step::Into(ExponentDigits),
        (Decimals | ExponentDigits, _) => Step::After(Kind::Fraction),

        // Bytes that are in no UTF-8, and control characters, which lines may end with.
        (State::String { quote, escaped }, 0x20..=0xfd) => match byte {
            _ if !escaped && byte == quote => Step::Last(Kind::String),
            _ => Step::Into(State::String {
                quote,
                escaped: !escaped && byte == b'\\',
            }),
        },

        // From where there may be sense again.
        (Recovering, 0..0x20 | 0xfe | 0xff | b'{' | b'}' | b'[' | b']' | b':' | b',') => {
            Step::Again
        }
        (Recovering, _) => Step::Skip,
        _ => Step::Last(Kind::Stray),
    }
}
