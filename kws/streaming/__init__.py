"""Continuous audio: features and scores as samples come in, events, and how often they are right.

May import evaluation and every folder below it; training and commands import this folder, never the other way round.
scores, events, truth, counting, curves, thresholds and mixing work without torch.

    samples -> StreamFeatures -> WindowScorer or NetworkScorer -> Scores -> Detector -> Event -> counted against truth

Read in this order:
    scores     what a scorer gives: times and probabilities
    front_end  frames of features as samples come in
    window     the last window of frames, every few frames, through any network
    network    streaming networks: each frame once, with the states of the layers
    scorers    the scorer that a trained network gets
    events     scores become events: smoothing, threshold, refractory time
    truth      the words spoken in a recording, from label tracks and tables
    counting   events against them: hits, misses, false accepts, latency
    curves     the same for all thresholds in one pass: the DET curve
    thresholds chosen on one set of recordings, used on others
    near_misses, kept_clips, listening   `kws listen`: what nearly was an event, the clips that are kept, the microphone
    mixing     labelled streams from clips and background sound: `kws mix`
"""
