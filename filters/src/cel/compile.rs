//! From the tree to what is evaluated: names become attributes and functions, patterns are compiled.
//!
//! Maps of headers are asked for one name, which is known then, so that only that header has to be kept.

use std::borrow::Cow;

use super::attribute::{Attribute, header, named};
use super::fault::Fault;
use super::function::Function;
use super::node::Node;
use super::syntax::{Binary, Expr, Kind, Literal};
use super::value::Value;
use crate::matcher::regex;
use crate::stream::stream_info::Capture;

/// How deep an evaluation may go.
const MAX_DEPTH: usize = 64;

/// What can only be asked for a field.
const ROOTS: [&str; 6] = [
    "request",
    "response",
    "source",
    "destination",
    "connection",
    "upstream",
];

/// CEL's loops. Envoy refuses them, too.
const MACROS: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];

/// # Errors
/// A name that isn't known, or something that can't be asked so.
pub(super) fn compile(expr: &Expr, capture: &mut Capture) -> Result<Node, Fault> {
    let mut compiler = Compiler { capture, depth: 0 };
    compiler.node(expr)
}

struct Compiler<'c> {
    capture: &'c mut Capture,
    depth: usize,
}

impl Compiler<'_> {
    fn node(&mut self, expr: &Expr) -> Result<Node, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let reason = format!("it nests deeper than {MAX_DEPTH}");
            return Err(Fault::new(expr.at, reason));
        }
        let node = self.inner(expr);
        self.depth -= 1;
        node
    }

    fn boxed(&mut self, expr: &Expr) -> Result<Box<Node>, Fault> {
        self.node(expr).map(Box::new)
    }

    fn all(&mut self, list: &[Expr]) -> Result<Box<[Node]>, Fault> {
        list.iter().map(|expr| self.node(expr)).collect()
    }

    fn pair(&mut self, left: &Expr, right: &Expr) -> Result<[Node; 2], Fault> {
        Ok([self.node(left)?, self.node(right)?])
    }

    fn inner(&mut self, expr: &Expr) -> Result<Node, Fault> {
        if let Some(attribute) = attribute(expr)? {
            attribute.capture(self.capture);
            return Ok(Node::Attribute(attribute));
        }
        Ok(match &expr.kind {
            Kind::Literal(literal) => Node::Literal(value(literal)),
            Kind::Name(name) => {
                let reason = match ROOTS.contains(&name.as_str()) || name == "xds" {
                    true => format!("{name} is asked for a field of it"),
                    false => format!("{name} is no attribute that is known here"),
                };
                return Err(Fault::new(expr.at, reason));
            }
            Kind::Field(of, name) => Node::Field(self.boxed(of)?, name.as_str().into()),
            Kind::Index(of, index) => match text(index) {
                Some(name) => Node::Field(self.boxed(of)?, name.into()),
                None => Node::Index(Box::new(self.pair(of, index)?)),
            },
            Kind::Call {
                on,
                name,
                arguments,
            } => self.call(expr.at, on.as_deref(), name, arguments)?,
            Kind::Not(inner) => Node::Not(self.boxed(inner)?),
            Kind::Negate(inner) => Node::Negate(self.boxed(inner)?),
            Kind::Binary(Binary::In, key, of) if is_headers(of) => match text(key) {
                Some(_) => {
                    let index = Kind::Index(of.clone(), key.clone());
                    let header = Expr {
                        at: expr.at,
                        kind: index,
                    };
                    self.has(&header)?
                }
                None => return Err(Fault::new(key.at, "headers are asked for one name")),
            },
            Kind::Binary(operator, left, right) => {
                Node::Binary(*operator, Box::new(self.pair(left, right)?))
            }
            Kind::All(all) => Node::All(self.all(all)?),
            Kind::Any(any) => Node::Any(self.all(any)?),
            Kind::Condition(parts) => {
                let [condition, then, otherwise] = &**parts;
                let condition = self.node(condition)?;
                let [then, otherwise] = self.pair(then, otherwise)?;
                Node::Condition(Box::new([condition, then, otherwise]))
            }
            Kind::List(list) => Node::List(self.all(list)?),
            Kind::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| self.pair(key, value));
                Node::Map(entries.collect::<Result<_, _>>()?)
            }
        })
    }

    fn has(&mut self, expr: &Expr) -> Result<Node, Fault> {
        match self.node(expr)? {
            Node::Attribute(attribute) => Ok(Node::HasAttribute(attribute)),
            Node::Field(of, name) => Ok(Node::HasField(of, name)),
            _ => Err(Fault::new(expr.at, "has() takes a field")),
        }
    }

    fn call(
        &mut self,
        at: usize,
        on: Option<&Expr>,
        name: &str,
        arguments: &[Expr],
    ) -> Result<Node, Fault> {
        if MACROS.contains(&name) && on.is_some() {
            let reason = format!("{name}(): nothing is done for each element, as in Envoy");
            return Err(Fault::new(at, reason));
        }
        if name == "has" && on.is_none() {
            return match arguments {
                [one] if matches!(one.kind, Kind::Field(..)) => self.has(one),
                _ => Err(Fault::new(at, "has() takes a field")),
            };
        }
        let all: Vec<&Expr> = on.into_iter().chain(arguments).collect();
        if name == "matches" {
            let [of, pattern] = all.as_slice() else {
                return Err(Fault::new(at, "matches takes a text and a pattern"));
            };
            let pattern =
                text(pattern).ok_or_else(|| Fault::new(pattern.at, "a pattern is written out"))?;
            let regex = regex::search(pattern);
            let regex = regex.map_err(|refusal| Fault::new(at, refusal.to_string()))?;
            return Ok(Node::Matches(self.boxed(of)?, regex));
        }
        let function = Function::named(name, on.is_some(), all.len());
        let function = function.map_err(|reason| Fault::new(at, reason))?;
        let nodes: Result<Box<[Node]>, Fault> = all.into_iter().map(|e| self.node(e)).collect();
        Ok(Node::Call(function, nodes?))
    }
}

fn value(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(number) => Value::Int(*number),
        Literal::Uint(number) => Value::Uint(*number),
        Literal::Double(number) => Value::Double(*number),
        Literal::String(text) => Value::String(Cow::Owned(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.clone())),
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match &expr.kind {
        Kind::Literal(Literal::String(text)) => Some(text),
        _ => None,
    }
}

/// What something is a part of, and the part's name where it is written out.
fn part(expr: &Expr) -> Option<(&Expr, Option<&str>)> {
    match &expr.kind {
        Kind::Field(of, name) => Some((of, Some(name))),
        Kind::Index(of, index) => Some((of, text(index))),
        _ => None,
    }
}

fn root(expr: &Expr) -> Option<&str> {
    match &expr.kind {
        Kind::Name(name) if ROOTS.contains(&name.as_str()) || name == "xds" => Some(name),
        _ => None,
    }
}

/// The root and the name of a map of headers.
fn headers(expr: &Expr) -> Option<(&str, &str)> {
    let (of, name) = part(expr)?;
    match (root(of)?, name?) {
        found @ (("request" | "response", "headers") | ("response", "trailers")) => Some(found),
        _ => None,
    }
}

fn is_headers(expr: &Expr) -> bool {
    headers(expr).is_some()
}

/// `None`: it is something else.
fn attribute(expr: &Expr) -> Result<Option<Attribute>, Fault> {
    if let Kind::Name(name) = &expr.kind {
        return Ok(match name.as_str() {
            "metadata" => Some(Attribute::Metadata),
            "filter_state" => Some(Attribute::FilterState),
            _ => None,
        });
    }
    if let Some((root, map)) = headers(expr) {
        let reason = format!("{root}.{map} is asked for one name");
        return Err(Fault::new(expr.at, reason));
    }
    let Some((of, name)) = part(expr) else {
        return Ok(None);
    };
    if let Some((root, map)) = headers(of) {
        let Some(name) = name else {
            let reason = format!("{root}.{map} is asked for one name, written out");
            return Err(Fault::new(expr.at, reason));
        };
        let found = header(root, map, name);
        let fault = || Fault::new(expr.at, format!("{name:?} is no header"));
        return found.ok_or_else(fault).map(Some);
    }
    let Some(root) = root(of) else {
        return Ok(None);
    };
    let found = name.and_then(|name| named(root, name));
    let fault = || {
        let name = name.unwrap_or("[…]");
        Fault::new(
            of.at,
            format!("{root}.{name} is no attribute that is known here"),
        )
    };
    found.ok_or_else(fault).map(Some)
}
