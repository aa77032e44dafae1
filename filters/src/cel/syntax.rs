//! The grammar of expressions: tokens to a tree, by recursive descent.
//!
//! Names mean nothing yet (`compile.rs`). What nests deeper than a bound, or is longer, is refused.

use super::fault::Fault;
use super::token::{Token, TokenKind, tokens};

/// Bytes of an expression.
const MAX_TEXT: usize = 8 * 1024;
/// Parts of an expression.
const MAX_NODES: usize = 512;
/// Parentheses, conditions and signs within each other.
const MAX_DEPTH: usize = 24;

/// A part of an expression and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Literal(Literal),
    Name(String),
    Field(Box<Expr>, String),
    Index(Box<Expr>, Box<Expr>),
    Call {
        /// What the function is called on, if anything.
        on: Option<Box<Expr>>,
        name: String,
        arguments: Vec<Expr>,
    },
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Condition(Box<[Expr; 3]>),
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// Names that CEL keeps for itself.
const RESERVED: [&str; 16] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
];

/// # Errors
/// What isn't an expression, or is too much of one.
pub(super) fn parse(text: &str) -> Result<Expr, Fault> {
    if text.len() > MAX_TEXT {
        let reason = format!("it is longer than {MAX_TEXT} bytes");
        return Err(Fault::new(0, reason));
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        nodes: 0,
        depth: 0,
    };
    let whole = parser.expression()?;
    match parser.peek() {
        TokenKind::End => Ok(whole),
        _ => Err(parser.unexpected("its end")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    nodes: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &TokenKind {
        let token = self.tokens.get(self.next);
        token.map_or(&TokenKind::End, |token| &token.kind)
    }

    fn at(&self) -> usize {
        let token = self.tokens.get(self.next).or(self.tokens.last());
        token.map_or(0, |token| token.at)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), TokenKind::Sign(s) if *s == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Fault> {
        match self.take(sign) {
            true => Ok(()),
            false => Err(self.unexpected(sign)),
        }
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        let found = match self.peek() {
            TokenKind::End => "its end".to_owned(),
            TokenKind::Name(name) => name.clone(),
            TokenKind::Sign(sign) => (*sign).to_owned(),
            _ => "a literal".to_owned(),
        };
        Fault::new(self.at(), format!("{found} where {wanted} is expected"))
    }

    fn node(&mut self, at: usize, kind: Kind) -> Result<Expr, Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Fault::new(
                at,
                format!("it has more than {MAX_NODES} parts"),
            ));
        }
        Ok(Expr { at, kind })
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let reason = format!("it nests deeper than {MAX_DEPTH}");
            return Err(Fault::new(self.at(), reason));
        }
        let found = parse(self);
        self.depth -= 1;
        found
    }

    fn expression(&mut self) -> Result<Expr, Fault> {
        self.deeper(|parser| {
            let at = parser.at();
            let first = parser.chain("||", Kind::Any, |parser| {
                parser.chain("&&", Kind::All, |parser| parser.binary(0))
            })?;
            if !parser.take("?") {
                return Ok(first);
            }
            let then = parser.chain("||", Kind::Any, |parser| {
                parser.chain("&&", Kind::All, |parser| parser.binary(0))
            })?;
            parser.expect(":")?;
            let otherwise = parser.expression()?;
            parser.node(at, Kind::Condition(Box::new([first, then, otherwise])))
        })
    }

    /// Parts with `sign` between them.
    fn chain(
        &mut self,
        sign: &str,
        join: fn(Vec<Expr>) -> Kind,
        part: impl Fn(&mut Parser) -> Result<Expr, Fault>,
    ) -> Result<Expr, Fault> {
        let at = self.at();
        let first = part(self)?;
        let mut all = vec![first];
        while self.take(sign) {
            all.push(part(self)?);
        }
        match (all.len(), all.pop()) {
            (1, Some(only)) => Ok(only),
            (_, last) => {
                all.extend(last);
                self.node(at, join(all))
            }
        }
    }

    /// Relations, sums and products, by how tightly they bind.
    fn binary(&mut self, level: usize) -> Result<Expr, Fault> {
        if level == 3 {
            return self.unary();
        }
        let at = self.at();
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.operator(level) {
            self.next += 1;
            let right = self.binary(level + 1)?;
            left = self.node(at, Kind::Binary(operator, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn operator(&self, level: usize) -> Option<Binary> {
        let sign = match self.peek() {
            TokenKind::Sign(sign) => *sign,
            TokenKind::Name(name) if name == "in" => "in",
            _ => return None,
        };
        Some(match (level, sign) {
            (0, "<") => Binary::Less,
            (0, "<=") => Binary::LessOrEqual,
            (0, ">") => Binary::Greater,
            (0, ">=") => Binary::GreaterOrEqual,
            (0, "==") => Binary::Equal,
            (0, "!=") => Binary::NotEqual,
            (0, "in") => Binary::In,
            (1, "+") => Binary::Add,
            (1, "-") => Binary::Subtract,
            (2, "*") => Binary::Multiply,
            (2, "/") => Binary::Divide,
            (2, "%") => Binary::Remainder,
            _ => return None,
        })
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        let at = self.at();
        if self.take("!") {
            let inner = self.deeper(Parser::unary)?;
            return self.node(at, Kind::Not(Box::new(inner)));
        }
        if !self.take("-") {
            return self.member();
        }
        // The least integer has no positive twin.
        if let TokenKind::Int(number) = *self.peek() {
            let least = number == i64::MIN.unsigned_abs();
            let value = i64::try_from(number).map(|number| -number);
            if let Some(value) = value.ok().or(least.then_some(i64::MIN)) {
                self.next += 1;
                let literal = self.node(at, Kind::Literal(Literal::Int(value)))?;
                return self.members_of(literal);
            }
        }
        let inner = self.deeper(Parser::unary)?;
        self.node(at, Kind::Negate(Box::new(inner)))
    }

    fn member(&mut self) -> Result<Expr, Fault> {
        let first = self.primary()?;
        self.members_of(first)
    }

    fn members_of(&mut self, first: Expr) -> Result<Expr, Fault> {
        let mut found = first;
        loop {
            let at = self.at();
            if self.take("[") {
                let index = self.expression()?;
                self.expect("]")?;
                found = self.node(at, Kind::Index(Box::new(found), Box::new(index)))?;
            } else if self.take(".") {
                let name = self.name()?;
                let kind = if self.take("(") {
                    Kind::Call {
                        on: Some(Box::new(found)),
                        name,
                        arguments: self.list(")", Parser::expression)?,
                    }
                } else {
                    Kind::Field(Box::new(found), name)
                };
                found = self.node(at, kind)?;
            } else {
                return Ok(found);
            }
        }
    }

    fn name(&mut self) -> Result<String, Fault> {
        match self.peek().clone() {
            TokenKind::Name(name) => {
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// Parts with commas between them, to `end`; one may stand before it.
    fn list<T>(
        &mut self,
        end: &str,
        part: impl Fn(&mut Parser) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut found = Vec::new();
        while !self.take(end) {
            found.push(part(self)?);
            if !self.take(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(found)
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        let at = self.at();
        if self.take("(") {
            let inner = self.expression()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.take("[") {
            let list = self.list("]", Parser::expression)?;
            return self.node(at, Kind::List(list));
        }
        if self.take("{") {
            let entries = self.list("}", |parser| {
                let key = parser.expression()?;
                parser.expect(":")?;
                Ok((key, parser.expression()?))
            })?;
            return self.node(at, Kind::Map(entries));
        }
        let literal = match self.peek().clone() {
            TokenKind::Name(name) => return self.named(at, name),
            TokenKind::Int(number) => Literal::Int(
                i64::try_from(number).map_err(|_| Fault::new(at, "an integer beyond 64 bits"))?,
            ),
            TokenKind::Uint(number) => Literal::Uint(number),
            TokenKind::Double(number) => Literal::Double(number),
            TokenKind::String(text) => Literal::String(text),
            TokenKind::Bytes(bytes) => Literal::Bytes(bytes),
            TokenKind::Sign(_) | TokenKind::End => return Err(self.unexpected("a value")),
        };
        self.next += 1;
        self.node(at, Kind::Literal(literal))
    }

    fn named(&mut self, at: usize, name: String) -> Result<Expr, Fault> {
        let literal = match name.as_str() {
            "true" => Some(Literal::Bool(true)),
            "false" => Some(Literal::Bool(false)),
            "null" => Some(Literal::Null),
            reserved if RESERVED.contains(&reserved) => {
                return Err(Fault::new(at, format!("{reserved} is no name")));
            }
            _ => None,
        };
        self.next += 1;
        if let Some(literal) = literal {
            return self.node(at, Kind::Literal(literal));
        }
        if self.take("(") {
            let arguments = self.list(")", Parser::expression)?;
            let call = Kind::Call {
                on: None,
                name,
                arguments,
            };
            return self.node(at, call);
        }
        self.node(at, Kind::Name(name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// With parentheses around everything.
    fn shown(expr: &Expr) -> String {
        let list = |all: &[Expr], with: &str| all.iter().map(shown).collect::<Vec<_>>().join(with);
        match &expr.kind {
            Kind::Literal(Literal::String(text)) => format!("{text:?}"),
            Kind::Literal(Literal::Int(number)) => number.to_string(),
            Kind::Literal(other) => format!("{other:?}"),
            Kind::Name(name) => name.clone(),
            Kind::Field(of, name) => format!("{}.{name}", shown(of)),
            Kind::Index(of, index) => format!("{}[{}]", shown(of), shown(index)),
            Kind::Call {
                on,
                name,
                arguments,
            } => {
                let on = on.as_ref().map(|on| shown(on) + ".").unwrap_or_default();
                format!("{on}{name}({})", list(arguments, ","))
            }
            Kind::Not(inner) => format!("!{}", shown(inner)),
            Kind::Negate(inner) => format!("-{}", shown(inner)),
            Kind::Binary(operator, left, right) => {
                format!("({} {operator:?} {})", shown(left), shown(right))
            }
            Kind::All(all) => format!("({})", list(all, " && ")),
            Kind::Any(all) => format!("({})", list(all, " || ")),
            Kind::Condition(parts) => {
                let [if_, then, otherwise] = &**parts;
                format!("({} ? {} : {})", shown(if_), shown(then), shown(otherwise))
            }
            Kind::List(all) => format!("[{}]", list(all, ",")),
            Kind::Map(entries) => format!("{{{}}}", entries.len()),
        }
    }

    #[test]
    fn what_binds_tighter() {
        for (text, tree) in [
            ("1 + 2 * 3 - 4", "((1 Add (2 Multiply 3)) Subtract 4)"),
            ("a || b && c == 1 || d", "(a || (b && (c Equal 1)) || d)"),
            ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
            ("!a.b['c'].d('e', 1,)", "!a.b[\"c\"].d(\"e\",1)"),
            ("'k' in a", "(\"k\" In a)"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("- - 1", "--1"),
            ("size([1, 2]) > {'a': 1}.b", "(size([1,2]) Greater {1}.b)"),
            ("(1 + 2) * 3", "((1 Add 2) Multiply 3)"),
        ] {
            assert_eq!(shown(&parse(text).unwrap()), tree, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_its_place() {
        for (text, place) in [
            ("", 0),
            ("1 +", 3),
            ("a.", 2),
            ("(a", 2),
            ("a b", 2),
            ("[1", 2),
            ("{1}", 2),
            ("a ? b", 5),
            ("a = b", 2),
            ("9223372036854775808", 0),
            ("if", 0),
            ("a.b(", 4),
        ] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.ends_with(&format!("(at {place})")), "{text}: {fault}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        for text in [
            "(".repeat(10_000),
            "!".repeat(5_000),
            "-".repeat(5_000),
            "a?".repeat(3_000),
            "[".repeat(5_000),
            "1+".repeat(1_000) + "1",
            "a".repeat(10_000),
        ] {
            assert!(parse(&text).is_err(), "{}", &text[..20]);
        }
    }
}
