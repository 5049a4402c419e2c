{{- define "draem-inspect.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# A volume of many files is not walked through at every start.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "draem-inspect.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Takes {root, resources, gpu}. */}}
{{- define "draem-inspect.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpu -}}
{{- $limits := merge (dict .root.Values.gpu.resource 1) ($resources.limits | default dict) -}}
{{- $resources = merge (dict "limits" $limits) $resources -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* What every pod of the chart has. Takes {root, gpu}. */}}
{{- define "draem-inspect.pod" -}}
automountServiceAccountToken: false
# A Service called `inspect` would set INSPECT_PORT=tcp://… in every container of the namespace.
enableServiceLinks: false
{{- with .root.Values.serviceAccountName }}
serviceAccountName: {{ quote . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ quote . }}
  {{- end }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ quote . }}
{{- end }}
{{- if and .gpu .root.Values.gpu.runtimeClassName }}
runtimeClassName: {{ quote .root.Values.gpu.runtimeClassName }}
{{- end }}
securityContext:
  {{- include "draem-inspect.podSecurity" . | nindent 2 }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The settings as variables. Helm reads numbers as floats: printed as JSON, 33554432 stays 33554432. */}}
{{- define "draem-inspect.environment" -}}
{{- range $name, $value := .Values.settings }}
- name: INSPECT_{{ upper $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- if not .Values.records.enabled }}
- name: INSPECT_RECORDS_DIR
  value: none
{{- end }}
{{- if include "draem-inspect.apiKeysSecret" . }}
- name: INSPECT_API_KEYS_FILE
  value: /run/inspect/api-keys/api-keys
{{- end }}
{{- if .Values.trustedKey }}
- name: INSPECT_TRUSTED_KEY
  value: /run/inspect/trusted-key/trusted-key.pem
{{- end }}
{{- if .Values.sealKeySecret }}
- name: INSPECT_SEAL_KEY
  value: /run/inspect/seal-key/seal-key
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Archives that init containers bring, as JSON: there are none where the recipes' folder cannot be written. */}}
{{- define "draem-inspect.archives" -}}
{{- has .Values.models.source (list "archives" "claim") | ternary .Values.models.archives (list) | toJson -}}
{{- end }}

{{/* Init containers that bring archives: what `fetch` reads itself, and what another image has to bring before. */}}
{{- define "draem-inspect.fetch" -}}
{{- range $index, $archive := .Values.models.archives }}
{{- $source := $archive.url }}
{{- if hasPrefix "s3://" $archive.url }}
{{- $source = printf "/incoming/%d" $index }}
- name: download-{{ $index }}
  image: {{ quote $.Values.models.s3.image }}
  command: [aws, s3, cp, --no-progress, {{ quote $archive.url }}, {{ $source }}]
  env:
    - {name: HOME, value: /tmp}
    {{- with $.Values.models.s3.endpointUrl }}
    - name: AWS_ENDPOINT_URL
      value: {{ . | quote }}
    {{- end }}
  {{- with $.Values.models.s3.credentialsSecret }}
  envFrom:
    - secretRef: {name: {{ quote . }}}
  {{- end }}
  {{- include "draem-inspect.fetching" $ | nindent 2 }}
{{- else if hasPrefix "oci://" $archive.url }}
{{- $source = printf "/incoming/%d" $index }}
- name: download-{{ $index }}
  image: {{ required "models.oci.image: name an image with the command oras, oci:// archives need it" $.Values.models.oci.image | quote }}
  # A registry names what it keeps by its sha256.
  command: [oras, blob, fetch, --output, {{ $source }}, {{ printf "%s@sha256:%s" (trimPrefix "oci://" $archive.url) $archive.sha256 | quote }}]
  env:
    - {name: HOME, value: /tmp}
    {{- if $.Values.models.oci.credentialsSecret }}
    - {name: DOCKER_CONFIG, value: /run/registry}
    {{- end }}
  {{- include "draem-inspect.fetching" $ | nindent 2 }}
    {{- if $.Values.models.oci.credentialsSecret }}
    - {name: registry, mountPath: /run/registry, readOnly: true}
    {{- end }}
{{- end }}
- name: fetch-{{ $index }}
  image: {{ include "draem-inspect.image" $.Values.image }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  args: [fetch, {{ quote $source }}, --sha256, {{ quote $archive.sha256 }}]
  {{- with $.Values.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "draem-inspect.fetching" $ | nindent 2 }}
    - {name: models, mountPath: /models}
{{- end }}
{{- end }}

{{- define "draem-inspect.fetching" -}}
securityContext:
  {{- include "draem-inspect.containerSecurity" . | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: incoming, mountPath: /incoming}
{{- end }}
