//! JSON without trees: values are read as slices of their text, and written piece by piece, so that what
//! needs no change keeps its bytes, its order of keys included.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::BadRequest;
use crate::lossy::Lossy;

/// A string that is borrowed where it has no escapes.
#[derive(Debug, Deserialize)]
pub(crate) struct Str<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The string that a value is.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Str<'_>>(raw.get()).ok().map(|text| text.0)
}

/// What stands between the quotes of a JSON string, escapes and all.
pub(crate) fn inside(string: &RawValue) -> &str {
    string.get().strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or("")
}

/// Whether a value says nothing: what is not there needs no counterpart.
fn is_void(raw: &RawValue) -> bool {
    matches!(raw.get(), "null" | "false" | "[]" | "{}")
}

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

pub(crate) fn kind(raw: &RawValue) -> Kind {
    match raw.get().as_bytes().first() {
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b'"') => Kind::String,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') | None => Kind::Null,
        Some(_) => Kind::Number,
    }
}

/// The items of an array.
pub(crate) fn items(raw: &RawValue) -> Result<Vec<&RawValue>, BadRequest> {
    serde_json::from_str(raw.get()).map_err(|_| BadRequest::new("must be an array"))
}

/// An object's fields in their order. A `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    fields: Vec<(Cow<'a, str>, Option<&'a RawValue>)>,
}

impl<'a> Object<'a> {
    pub(crate) fn read(raw: &'a RawValue) -> Result<Self, BadRequest> {
        serde_json::from_str(raw.get()).map_err(|_| BadRequest::new("must be an object"))
    }

    /// Takes a field out.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<&'a RawValue>, BadRequest> {
        let mut found = None;
        for (_, value) in self.fields.iter_mut().filter(|(key, _)| key == name) {
            if found.is_some() {
                return Err(BadRequest::at(name, "stands twice in its object"));
            }
            found = value.take();
        }
        Ok(found.filter(|raw| raw.get() != "null"))
    }

    pub(crate) fn need(&mut self, name: &str) -> Result<&'a RawValue, BadRequest> {
        self.take(name)?.ok_or_else(|| BadRequest::at(name, "is required"))
    }

    /// A field of a certain kind, as it stands.
    pub(crate) fn take_kind(&mut self, name: &str, wanted: Kind) -> Result<Option<&'a RawValue>, BadRequest> {
        let raw = self.take(name)?;
        if raw.is_some_and(|raw| kind(raw) != wanted) {
            let message = match wanted {
                Kind::Null => "must be null",
                Kind::Bool => "must be true or false",
                Kind::Number => "must be a number",
                Kind::String => "must be a string",
                Kind::Array => "must be an array",
                Kind::Object => "must be an object",
            };
            return Err(BadRequest::at(name, message));
        }
        Ok(raw)
    }

    pub(crate) fn need_kind(&mut self, name: &str, wanted: Kind) -> Result<&'a RawValue, BadRequest> {
        self.take_kind(name, wanted)?.ok_or_else(|| BadRequest::at(name, "is required"))
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, BadRequest> {
        let raw = self.take_kind(name, Kind::String)?;
        raw.map(|raw| text(raw).ok_or_else(|| BadRequest::at(name, "is not valid Unicode"))).transpose()
    }

    pub(crate) fn need_text(&mut self, name: &str) -> Result<Cow<'a, str>, BadRequest> {
        self.text(name)?.ok_or_else(|| BadRequest::at(name, "is required"))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, BadRequest> {
        Ok(self.take_kind(name, Kind::Bool)?.map(|raw| raw.get() == "true"))
    }

    pub(crate) fn count(&mut self, name: &str) -> Result<Option<u64>, BadRequest> {
        let raw = self.take_kind(name, Kind::Number)?;
        raw.map(|raw| raw.get().parse().map_err(|_| BadRequest::at(name, "must be a whole number")))
            .transpose()
    }

    /// What has not been taken.
    pub(crate) fn rest(self) -> impl Iterator<Item = (Cow<'a, str>, &'a RawValue)> {
        self.fields.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }

    /// Lists what has not been taken and says something.
    pub(crate) fn lose_rest(self, place: &str, lossy: &mut Lossy) {
        for (name, _) in self.rest().filter(|(_, raw)| !is_void(raw)) {
            lossy.field(place, &name);
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(key) = map.next_key::<Str<'de>>()? {
                    fields.push((key.0, Some(map.next_value()?)));
                }
                Ok(Object { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Writes JSON to the end of a buffer, with the commas where they belong.
pub(crate) struct Json<'o>(pub(crate) &'o mut Vec<u8>);

impl Json<'_> {
    /// A comma, unless this is the first thing in its array or object, a value after its key, or the
    /// beginning of a document.
    fn comma(&mut self) {
        if !matches!(self.0.last(), None | Some(b'{' | b'[' | b':' | b' ' | b'\n')) {
            self.0.push(b',');
        }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn key(&mut self, name: &str) -> &mut Self {
        self.string(name).put(b":")
    }

    pub(crate) fn string(&mut self, text: &str) -> &mut Self {
        self.comma();
        // Neither a string nor a vector can fail.
        serde_json::to_writer(&mut *self.0, text).unwrap_or_default();
        self
    }

    /// A string that is written in pieces.
    pub(crate) fn string_of(&mut self, pieces: &[&str]) -> &mut Self {
        self.string(&pieces.concat())
    }

    /// JSON text that is a value already. Line ends between tokens become blanks, so that it fits on a line of
    /// an event stream.
    pub(crate) fn raw(&mut self, text: &str) -> &mut Self {
        self.comma();
        let start = self.0.len();
        self.put(text.as_bytes());
        if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_some() {
            for byte in &mut self.0[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
        }
        self
    }

    /// JSON text that is some fields of an object, or some items of an array, already; may be empty.
    pub(crate) fn fragment(&mut self, text: &[u8]) -> &mut Self {
        if !text.is_empty() {
            self.comma();
            self.put(text);
        }
        self
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.comma();
        self.put(number.to_string().as_bytes())
    }

    pub(crate) fn object(&mut self, fields: impl FnOnce(&mut Json<'_>)) -> &mut Self {
        self.comma();
        self.put(b"{");
        fields(&mut Json(self.0));
        self.put(b"}")
    }

    pub(crate) fn array(&mut self, items: impl FnOnce(&mut Json<'_>)) -> &mut Self {
        self.comma();
        self.put(b"[");
        items(&mut Json(self.0));
        self.put(b"]")
    }

    /// The field `type` first, as all objects of these protocols have it.
    pub(crate) fn typed(&mut self, kind: &str, fields: impl FnOnce(&mut Json<'_>)) -> &mut Self {
        self.object(|o| {
            o.key("type").string(kind);
            fields(o);
        })
    }
}
