# The image holds two static binaries, gateway and operator, and the certificate authorities: nothing else to update,
# nothing to run a shell with.
#
#   docker build -t portcullis .
#
# With static binaries that are there already, no base image is pulled (DIR holds portcullis-gateway,
# portcullis-operator and ca-certificates.crt); e2e/image-build does so:
#
#   docker build -t portcullis --build-context binaries=DIR .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Static glibc, because it brings name resolution and a fast memcpy; a target is named so that build scripts and macros,
# which must be dynamic, are not meant.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --locked --profile dist --package portcullis-gateway --package portcullis-operator --target "$target" \
    && install -D --target-directory=/out "target/$target/dist/portcullis-gateway" "target/$target/dist/portcullis-operator" \
    && install -m 644 /etc/ssl/certs/ca-certificates.crt /out/

FROM scratch AS binaries
COPY --from=build /out/ /

FROM scratch
COPY --from=binaries /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=binaries /portcullis-gateway /portcullis-operator /
# Numeric, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 5000
ENTRYPOINT ["/portcullis-gateway"]
