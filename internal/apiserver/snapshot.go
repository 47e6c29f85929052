package apiserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// SnapshotPath is where a snapshot of the store can be had, by whoever may get that
// path: cluster-admin and system:masters, for it holds the cluster's keys.
const SnapshotPath = "/portico/snapshot"

// errNoSnapshot answers where the store isn't this process's.
var errNoSnapshot = apierrors.NewGenericServerResponse(http.StatusNotImplemented, "get", schema.GroupResource{}, "",
	"the store is an etcd cluster of its own: save it with `etcdctl snapshot save`, and the folder pki of the data directory with it", 0, true)

// serveSnapshots streams snapshots; save is nil where there are none to be had.
func serveSnapshots(main *genericapiserver.GenericAPIServer, codecs serializer.CodecFactory, save func(context.Context, io.Writer) error, logger *slog.Logger) {
	main.Handler.NonGoRestfulMux.HandleFunc(SnapshotPath, func(w http.ResponseWriter, req *http.Request) {
		refuse := func(err error) {
			responsewriters.ErrorNegotiated(err, codecs, schema.GroupVersion{Version: "v1"}, w, req)
		}
		switch {
		case req.Method != http.MethodGet:
			refuse(apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "snapshot"}, req.Method))
			return
		case save == nil:
			refuse(errNoSnapshot)
			return
		}
		w.Header().Set("Content-Type", "application/x-tar")
		if err := save(req.Context(), w); err != nil {
			if !errors.Is(err, context.Canceled) {
				logger.ErrorContext(req.Context(), "A snapshot was broken off", "error", err)
			}
			panic(http.ErrAbortHandler) // what was sent can't be taken back: the client must see no good end
		}
	})
}

// longRunning lets a snapshot take longer than a request, and not count among them.
func longRunning(others request.LongRunningRequestCheck) request.LongRunningRequestCheck {
	return func(req *http.Request, info *request.RequestInfo) bool {
		return !info.IsResourceRequest && info.Path == SnapshotPath || others(req, info)
	}
}
