"""Compiles Envoy's API and ours to one FileDescriptorSet, without what a reader of messages has no use for.

Options (validation rules, annotations) and services are two thirds of the set; what is left is names,
numbers and types. Of the annotations one counts: the fields that are sensitive are listed beside the set.
"""

import pathlib
import sys
import tempfile

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

OPTIONS_ONLY = ("validate/", "udpa/annotations/", "xds/annotations/", "envoy/annotations/",
                "google/api/annotations.proto", "google/api/http.proto", "google/protobuf/descriptor.proto")
# Envoy's own records and protocols with other servers: no configuration mentions their messages.
LEFT_OUT = ("envoy/data/", "envoy/service/", "envoy/watchdog/")


def compile_all(api, ours):
    roots = [api / "data-plane-api", api / "xds", api / "googleapis", api / "cel-spec/proto", api / "client_model",
             api / "opentelemetry-proto", api / "protoc-gen-validate", api / "ratelimit/api", ours,
             pathlib.Path(grpc_tools.__file__).parent / "_proto"]
    files = [str(path.relative_to(roots[0])) for path in sorted(roots[0].rglob("*.proto"))]
    files = [file for file in files if not file.startswith(LEFT_OUT + OPTIONS_ONLY)]
    files += ["envoy/service/discovery/v3/discovery.proto"]
    files += [str(path.relative_to(api / "xds")) for path in sorted((api / "xds/xds/type").rglob("*.proto"))]
    files += [path.name for path in sorted(ours.glob("*.proto"))]
    with tempfile.NamedTemporaryFile() as out:
        includes = [f"-I{root}" for root in roots]
        arguments = ["protoc", *includes, "--include_imports", f"--descriptor_set_out={out.name}", *files]
        if protoc.main(arguments) != 0:
            sys.exit("protoc failed")
        return descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out.name).read_bytes())


# The number of the option udpa.annotations.sensitive, as the key of a varint that is 1.
SENSITIVE = 76569463


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def sensitive_fields(name, message):
    for field in message.field:
        if varint(SENSITIVE << 3) + b"\x01" in field.options.SerializeToString():
            yield f"{name}.{field.name}"
    for nested in message.nested_type:
        yield from sensitive_fields(f"{name}.{nested.name}", nested)


def sensitive(files):
    return sorted(field for file in files.file for message in file.message_type
                  for field in sensitive_fields(f"{file.package}.{message.name}", message))


def strip_message(message):
    is_map_entry = message.options.map_entry
    message.ClearField("options")
    if is_map_entry:
        message.options.map_entry = True
    message.ClearField("extension")
    for field in message.field:
        field.ClearField("json_name")
        packed = field.options.packed if field.options.HasField("packed") else None
        field.ClearField("options")
        if packed is not None:
            field.options.packed = packed
    for oneof in message.oneof_decl:
        oneof.ClearField("options")
    for enum in message.enum_type:
        strip_enum(enum)
    for nested in message.nested_type:
        strip_message(nested)


def strip_enum(enum):
    allow_alias = enum.options.allow_alias
    enum.ClearField("options")
    if allow_alias:
        enum.options.allow_alias = True
    for value in enum.value:
        value.ClearField("options")


def strip(files):
    result = descriptor_pb2.FileDescriptorSet()
    for file in files.file:
        if file.name.startswith(OPTIONS_ONLY):
            continue
        for field in ("options", "service", "extension", "public_dependency", "weak_dependency"):
            file.ClearField(field)
        kept = [name for name in file.dependency if not name.startswith(OPTIONS_ONLY)]
        file.ClearField("dependency")
        file.dependency.extend(kept)
        for message in file.message_type:
            strip_message(message)
        for enum in file.enum_type:
            strip_enum(enum)
        result.file.append(file)
    return result


def main():
    api, ours, out = (pathlib.Path(argument) for argument in sys.argv[1:])
    files = compile_all(api, ours)
    (out / "sensitive.txt").write_text("".join(f"{field}\n" for field in sensitive(files)))
    (out / "descriptors.bin").write_bytes(strip(files).SerializeToString(deterministic=True))


main()
